/* Where OpenSSL looks for CA certificates: in place of its own x509_def.c, which knows one directory
   that is set when it is built. The order is that of Go's crypto/x509. SSL_CERT_FILE and
   SSL_CERT_DIR still come first. */
#include <stddef.h>
#include <unistd.h>

#define COUNT(list) (sizeof list / sizeof *list)

static const char *const FILES[] = {
    "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Ubuntu, Arch, distroless */
    "/etc/pki/tls/certs/ca-bundle.crt",                  /* Fedora, RHEL */
    "/etc/ssl/ca-bundle.pem",                            /* openSUSE */
    "/etc/pki/tls/cacert.pem",                           /* OpenELEC */
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* CentOS, RHEL */
    "/etc/ssl/cert.pem",                                 /* Alpine */
};
static const char *const DIRECTORIES[] = {"/etc/ssl/certs", "/etc/pki/tls/certs"};

/* The first that can be read, else the first of the list: it may come later. */
static const char *first(const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (access(list[i], R_OK) == 0)
            return list[i];
    return list[0];
}

const char *X509_get_default_cert_file(void) { return first(FILES, COUNT(FILES)); }
const char *X509_get_default_cert_dir(void) { return first(DIRECTORIES, COUNT(DIRECTORIES)); }
const char *X509_get_default_cert_area(void) { return "/etc/ssl"; }
const char *X509_get_default_private_dir(void) { return "/etc/ssl/private"; }
const char *X509_get_default_cert_file_env(void) { return "SSL_CERT_FILE"; }
const char *X509_get_default_cert_dir_env(void) { return "SSL_CERT_DIR"; }
