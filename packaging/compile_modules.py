"""Run by the interpreter that is built: compiles modules to marshalled code.

The argument is a file with a JSON list of [source, the name that tracebacks show, output].
"""

import json
import marshal
import os
import sys

with open(sys.argv[1], encoding="utf-8") as todo:
    jobs = json.load(todo)
for source, shown, output in jobs:
    with open(source, "rb") as file:
        text = file.read()
    code = compile(text, shown, "exec", dont_inherit=True, optimize=2)
    with open(output + ".new", "wb") as file:
        file.write(marshal.dumps(code))
    os.rename(output + ".new", output)
