-- Writes C that holds files as byte arrays: the embedded copy of lua/, kernels/ and blueprints/, and the text for
-- ffi.cdef (first argument). Build time only: luajit embed.lua CDEF FILE... > embedded.c
local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read("*a")
  f:close()
  return text
end

local function array(name, text)
  io.write("static const unsigned char ", name, "[] = {")
  for i = 1, #text do
    if i % 32 == 1 then io.write("\n") end
    io.write(text:byte(i), ",")
  end
  io.write("0};\n")
end

io.write('#include "bind/state.h"\n')
local rows = {}
for i = 1, #arg do
  local text = read(arg[i])
  array("f" .. i, text)
  local name = i == 1 and "native.cdef" or arg[i]
  rows[i] = ('{"%s", (const char *)f%d, %d},'):format(name, i, #text)
end
io.write("const es_embedded es_embedded_files[] = {\n", table.concat(rows, "\n"), "\n{0, 0, 0}};\n")
