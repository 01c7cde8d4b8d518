-- First-generation descriptions, { type =, config = }: the acceptance figures of the original compiler's tests.
local esper = require "esper"
local files = require "support.files"
local import = require "esper.import"
local blueprint = require "esper.blueprint"

local function params(architecture)
  local graph = assert(blueprint.build(assert(import.declare(architecture)), { mode = "eval" }))
  local _, total = blueprint.params(graph)
  return total
end

describe("import of the first generation", function()
  local figures = {
    { 312384, "linear", { input_size = 128, hidden_sizes = { 256, 512, 256 }, output_size = 64, dropout = 0.1, activation = "relu" } },
    { 371712, "conv", { in_channels = 3, out_channels = { 64, 128, 256 }, strides = { 1, 2, 2 }, activation = "gelu" } },
    { 4896, "conv", { in_channels = 1, out_channels = { 16, 32 } } },
    { 263168, "attention", { embed_dim = 256, num_heads = 4 } },
    { 66048, "custom", { dim = 128, num_blocks = 2 } },
    { 12448, "linear", { input_size = 64, hidden_sizes = { 128 }, output_size = 32 } },
  }
  for _, f in ipairs(figures) do
    it(("%s: %d parameters"):format(f[2], f[1]), function() assert.equal(f[1], params { type = f[2], config = f[3] }) end)
  end

  it("refuses what is missing or unknown, by name", function()
    local _, missing = import.declare { config = {} }
    assert.matches("missing required field: type", table.concat(missing, "\n"), 1, true)
    local _, unknown = import.declare { type = "transformer", config = {} }
    assert.matches("Unsupported architecture type", table.concat(unknown, "\n"), 1, true)
    local _, key = import.declare { type = "linear", config = { hiden_sizes = { 3 } } }
    assert.matches("hidden_sizes", table.concat(key, "\n"), 1, true)
  end)

  it("compiles and runs from a .json file", function()
    local path = files.write("first.json", '{"type": "linear", "config": {"input_size": 4, "hidden_sizes": [8], "output_size": 2}}')
    local kernel = assert(esper.compile(path, { mode = "eval" }))
    assert.equal(4 * 8 + 8 + 8 * 2 + 2, kernel:param_count())
    assert.is_true(esper.certify(kernel, { shapes = 2 }).passed)
    local _, why = esper.compile(files.write("bad.json", "{"), {})
    assert.matches("bad.json", why, 1, true)
  end)
end)
