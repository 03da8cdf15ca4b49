/* What the parts of the file have in common. packaging/link.py gives the two addresses
   (packaging/elf.py has them): segments that are put into the linked program afterwards. */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* The bundle, as packaging/bundle.py writes it: this header, then one entry per item, sorted by
   name, the names, and the data. */
enum { RUN, DUMP, SCRIPT }; /* what the program is for */

typedef struct {
    uint32_t count, names, data; /* offsets from the header */
    uint32_t purpose;
    uint64_t size;
} BundleHeader;

#define BUNDLE ((const BundleHeader *)BUNDLE_ADDRESS)

/* allocator.c */
void use_allocator(void);     /* once, before the interpreter starts */
void fill_holes(void);        /* right before a snapshot is taken */
void resume_allocator(void);  /* in a process that begins with a snapshot */
size_t heap_size(void);       /* of what lies at HEAP_ADDRESS while a snapshot is made */

/* clock.c */
void find_clock(void); /* in each process that is not for a snapshot */

/* snapshot.c */
int is_snapshot(void);
void prepare_dump(void);                    /* before anything is opened */
int dump(void);                             /* to standard output; 0, or 1 and a message */
int resume(char **argv);                    /* the interpreter, in a process of its own; 0: failed */

/* immortal.c: also what they refer to; 0 where there is no memory */
struct _object;
int make_immortal(struct _object *const *objects, size_t count);

/* trim.c */
void trim_memory(void);

/* bundle.c */
struct _object *init_bundle(void);

#endif
