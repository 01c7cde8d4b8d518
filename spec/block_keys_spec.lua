-- A recipe may name a vector block by a key, and the unit then builds it once. The key must stand for all that the block depends
-- on: wherever a key was met, whatever was chosen there, its block has the same instructions.
local compile = require "esper.compile"
local emit_writer = require "esper.emit_writer"
local esper = require "esper"
local random_graph = require "support.random_graph"
local sandbox = require "esper.sandbox"
local vec = require "esper.vec"
local vec_case = require "support.vec_case"

-- The class of kernel writers, of which recipes see objects only.
local graph = { dims = function() return {} end }
local Writer = getmetatable(emit_writer.new({ graph = graph, isa = "scalar" }, { outputs = {} }, {}, "")).__index

-- Compiles with block and choice replaced: every keyed block is built again, and choices go round.
local function watched(body)
  local block, choice, turn = Writer.block, Writer.choice, 0
  local seen = { keys = {}, wrong = {}, count = 0 }
  function Writer:block(build, dtype, key)
    if key then
      local type = dtype or self.graph:dtype(self.group.anchor or self.group.outputs[1])
      local b, full = vec.block(self.isa, type), ("%s %s %s"):format(self.isa, type, key)
      build(b)
      local digest = b:digest()
      seen.count = seen.count + 1
      if (seen.keys[full] or digest) ~= digest then seen.wrong[#seen.wrong + 1] = self.group.kind .. ": " .. full end
      seen.keys[full] = digest
    end
    return block(self, build, dtype, key)
  end
  function Writer:choice(_, candidates)
    turn = turn + 1
    return candidates[turn % #candidates + 1]
  end
  local ok, why = pcall(body)
  Writer.block, Writer.choice = block, choice
  assert(ok, why)
  return seen
end

describe("keys of vector blocks", function()
  for _, isa in ipairs(vec_case.isas()) do
    it("stand for all of their block: " .. isa, function()
      local seen = watched(function()
        for i, name in ipairs(esper.catalogue()) do
          local mode, dtype = i % 2 == 0 and "train" or "eval", i % 5 == 0 and "f64" or "f32"
          assert(compile.compile(name, { build = sandbox.build, isa = isa, mode = mode, dtype = dtype }))
        end
        for seed = 1, 40 do
          local g = random_graph.make(seed)
          local function build() return g, { name = "spec/keys", mode = "eval", dtype = "f32", hyper = {} } end
          if g then assert(compile.compile("spec/keys", { build = build, isa = isa })) end
        end
        collectgarbage()
      end)
      assert.same({}, seen.wrong)
      assert.is_true(seen.count > 200)
    end)
  end
end)
