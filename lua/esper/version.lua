--- The library's version, from src/esper.h through C.
local native = require "esper.native"
return native.string(native.C.esper_version())
