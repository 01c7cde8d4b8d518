-- Random valid graphs agree with the oracle and libtorch; broken ones are refused with a typed error.
local broken_graph = require "support.broken_graph"
local graph_module = require "esper.graph"
local judge = require "support.judge"
local native = require "esper.native"
local random_graph = require "support.random_graph"
local validate = require "esper.validate"

local COUNT = tonumber(os.getenv "ESPER_SPEC_GRAPHS" or 2000)
local FIRST = tonumber(os.getenv "ESPER_SPEC_SEED" or 1)

describe("random graphs", function()
  it(("agree with the oracle and libtorch, %d of them, every op among them"):format(COUNT), function()
    local sums, used, failures, done = { kernel = validate.new_sum(), torch = validate.new_sum() }, {}, {}, 0
    local seed = FIRST - 1
    while done < COUNT do
      seed = seed + 1
      local graph, ops = random_graph.make(seed)
      if graph then
        done = done + 1
        for op in pairs(ops) do used[op] = (used[op] or 0) + 1 end
        local problem = judge.graph(graph, seed, sums)
        if problem then failures[#failures + 1] = ("seed %d: %s"):format(seed, problem) end
        if done % 64 == 0 then collectgarbage() end
      end
      assert.is_true(seed - FIRST < COUNT * 2, "too many refused draws")
    end
    local k = sums.kernel
    print(("random_graphs %d %d %d judged %.4f, largest error %.3f of its bound"):format(FIRST, COUNT, #failures,
      k.judged / k.elements, k.max_share))
    assert.same({}, failures)
    assert.is_true(k.judged > 0.9 * k.elements, "most elements must be judged")
    if COUNT >= 500 then
      for op, info in pairs(native.opinfo) do
        if info.class ~= "leaf" then assert.is_truthy(used[op], op .. " was never drawn") end
      end
    end
  end)

  it(("refuse %d broken texts, each with a typed error"):format(COUNT), function()
    local accepted, done = {}, 0
    for seed = FIRST, FIRST + COUNT * 2 do
      local text = broken_graph.text(seed)
      if text then
        done = done + 1
        local graph, message, status = graph_module.parse(text)
        if graph or not native.status[status] or #message == 0 or message:find("\n") then
          accepted[#accepted + 1] = ("seed %d: %s %s"):format(seed, tostring(message), tostring(status))
        end
      end
      if done >= COUNT then break end
      if seed % 64 == 0 then collectgarbage() end
    end
    assert.same({}, accepted)
    assert.equal(COUNT, done)
  end)

  it("print and parse back to the same identity", function()
    for seed = FIRST, FIRST + 200 do
      local graph = random_graph.make(seed)
      if graph then
        local again = assert(graph_module.parse(graph:text(false)))
        assert.equal(graph:text(false), again:text(false))
        assert.equal(graph:hash(), again:hash())
      end
    end
  end)
end)
