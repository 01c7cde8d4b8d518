-- Compiles and runs blueprints, for inference with frozen parameters too; run under valgrind by spec/valgrind.sh. Arguments: blueprint names, or "plant"
-- for machine code that writes one byte past a block.
local esper = require "esper"
local native = require "esper.native"
local tensor = require "esper.tensor"
local unit = require "spec.support.unit"

local function input(signature_row)
  local extents, shape = { batch = 2, tokens = 3, h = 5, w = 4 }, {}
  for i, e in ipairs(signature_row.shape) do shape[i] = type(e) == "number" and e or extents[e] or 3 end
  return assert(tensor.sample(signature_row.dtype == "f32" and "normal" or "index", signature_row.dtype, shape, 1, 0, 0, 2))
end

if arg[1] == "plant" then
  local block = native.C.es_alloc(16)
  unit.build("void run(char *block) { block[16] = 1; }"):get("run", "void (*)(void *)")(block)
  native.C.es_free(block)
  return
end

for _, name in ipairs(arg) do
  for _, mode in ipairs { "eval", "train" } do
    local kernel = assert(esper.compile(name, { mode = mode, set = name:match "^cnn" and { channels = 8 } or { dim = 24 } }))
    local inputs = {}
    for _, row in ipairs(kernel:signature().inputs) do inputs[row.name] = input(row) end
    local outputs, why = kernel:run(inputs, { seed = 1, threads = false, unproved = true })
    assert(outputs, why)
    local count = 0
    for _ in pairs(outputs) do count = count + 1 end
    if mode == "eval" then
      local options = { seed = 1, threads = false, unproved = true, params = assert(kernel:params(1)):freeze() }
      for _ = 1, 2 do assert(kernel:run(inputs, options)) end
    end
    print(("memcheck %s %s %s: %d outputs"):format(kernel.isa, name, mode, count))
  end
end
