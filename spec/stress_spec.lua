-- Short runs of the stress programs (the long ones: make soak); each prints one line `name seed n fail metric`.
-- Memory files: the store syncs at every commit, which a disk makes slow without making it a better test.
local process = require "support.process"

local SEED = tonumber(os.getenv "ESPER_SPEC_SEED" or 1)
local AMOUNT = { store_kill = 300, store_flip = 1000, vec_fuzz = 10000, loader_fuzz = 50000, graph_fuzz = 10000, plan_fuzz = 10000,
  npy_fuzz = 10000, pool_hammer = 300, frozen_threads = 500 }
local FUZZERS = { "vec_fuzz", "loader_fuzz", "graph_fuzz", "plan_fuzz", "npy_fuzz", "frozen_threads" }

local function command(name, amount, more)
  return ("TMPDIR=${TMPDIR:-/dev/shm} timeout 300 %s/stress/%s %d %d %s"):format(process.build, name, amount, SEED, more or "")
end

describe("stress #process", function()
  it("has a short run for every program of spec/stress", function()
    for path in process.must("ls spec/stress/*.c"):gmatch("([%w_]+)%.c") do
      assert.is_truthy(AMOUNT[path], path .. " has no amount here")
    end
  end)

  for name, amount in pairs(AMOUNT) do
    it(("%s %d"):format(name, amount), function()
      local output, code = process.run(command(name, amount))
      print((output:gsub("%s+$", "")))
      assert.equal(0, code)
      assert.is_truthy(output:match(("%s %d %d 0 "):format(name, SEED, amount)), output)
    end)
  end

  for _, name in ipairs(FUZZERS) do
    it(name .. " finds its planted bug", function()
      local output, code = process.run(command(name, 1000, "plant"))
      assert.not_equal(0, code)
      assert.is_true(tonumber(output:match(name .. " %d+ %d+ (%d+)")) > 0)
    end)
  end
end)
