-- What is too large is refused with a status and a place, never computed wrongly; what is only large works.
local compile = require "esper.compile"
local kernel = require "esper.kernel"
local native = require "esper.native"
local one = require "support.one_graph"
local tensor = require "esper.tensor"
local C = native.C

local HUGE = [[
symbol b 0 1099511627776
symbol t 0 1099511627776
%0 = input "x" f32[b, t, 8]
%1 = softmax %0 axis=1
%2 = matmul %1 %1 tb=1
%3 = sdpa %2 %2 %2 scale=1
%4 = reshape %0 shape=[b*t, 8]
%5 = matmul %4 %4 tb=1
%6 = exp %5
output "y" %3
output "z" %6
]]

-- `count` nodes after inputs; line(i) is node i + 1.
local function chain(count, line)
  local lines = { 'symbol n 0 100\n%0 = input "x" f32[n, 3]' }
  for i = 1, count do lines[#lines + 1] = ("%%%d = %s"):format(i, line(i)) end
  return table.concat(lines, "\n") .. ('\noutput "y" %%%d\n'):format(count)
end

local function eighths(_, i) return i % 5 / 8 end

describe("limits", function()
  it("refuse sizes that no memory holds, before anything runs", function()
    local t = assert(one.compile(HUGE))
    local count, bytes = C.es_plan_value_count(t.kernel.plan), native.new "int64_t[1]"
    local run = native.new "es_run"
    local data = native.new("void *[?]", count + 1) -- all NULL: touching them would end the test
    local function refused(status, said)
      local name = native.statusname[tonumber(status)]
      assert.truthy(name == "ELIMIT" or name == "ESHAPE" or name == "ENOMEM", said .. ": " .. tostring(name))
      assert.truthy(#native.string(native.err.text) > 20, said)
    end
    for _, size in ipairs { { 2 ^ 20, 2 ^ 20 }, { 2 ^ 40, 2 ^ 40 }, { 2 ^ 32, 2 ^ 31 }, { 2 ^ 10, 2 ^ 16 }, { 1, 2 ^ 40 },
        { 2 ^ 40, 1 }, { 2 ^ 41, 1 }, { 3, -1 }, { 2 ^ 62, 4 } } do
      local symbols, said = native.new("int64_t[2]", size[1], size[2]), table.concat(size, " by ")
      run.symbols, run.data = symbols, data
      refused(C.es_kernel_workspace(t.kernel.kernel, symbols, nil, bytes, native.fresh()), said)
      refused(C.es_kernel_run(t.kernel.kernel, run, native.fresh()), said)
      refused(C.es_guard_run(t.kernel.kernel, run, true, 5, native.new "es_guard_result", native.fresh()), said)
      local oracle = C.es_oracle_new(t.graph.ptr, symbols, 2 ^ -53, 1, 1, native.fresh())
      if oracle ~= nil then
        native.gc(oracle, C.es_oracle_free)
        assert.not_equal(0, tonumber(C.es_oracle_run(oracle, native.fresh())), said)
      end
    end
    t.values = { b = 2, t = 3 } -- and the kernel is none the worse
    t:give(eighths)
    assert.is_nil(t:judge(assert(t:oracle()), assert(t:run())))
  end)

  it("refuse graphs over every count, each with its own status", function()
    local symbols, eight = {}, "%0 = input \"x\" f32[1, 1, 1, 1, 1, 1, 1, 1]\n"
    for i = 1, 33 do symbols[i] = ("symbol s%d 1 2\n"):format(i) end
    for text, want in pairs {
      [table.concat(symbols) .. '%0 = input "x" f32[s1]\noutput "y" %0\n'] = "ENAME",
      [eight .. "%1 = expand %0 shape=[2, 1, 1, 1, 1, 1, 1, 1, 1]\n"] = "ESYNTAX",
      [eight .. "%1 = concat" .. (" %0"):rep(9) .. " axis=0\n"] = "ESYNTAX",
      ['%0 = input "x" f32[1099511627776]\n%1 = concat %0 %0 axis=0\n'] = "ELIMIT",
      ['%0 = input "x" f32[4]\n%1 = expand %0 shape=[1099511627776, 4]\n'] = "ELIMIT",
      ['symbol n 0 1099511627777\n%0 = input "x" f32[n]\n'] = "ELIMIT",
      ['symbol d 1 9\n%0 = input "x" f32[4, d]\n%1 = sdpa %0 %0 %0\n'] = "ESHAPE",
    } do
      local t, message, status = one.compile(text)
      assert.is_nil(t, text)
      assert.equal(want, status, text .. message)
      assert.truthy(#message > 20 and not message:find "\n", message)
    end
  end)

  it("take 32 symbols, and the head size of sdpa as a symbol when the scale is given", function()
    local symbols, inputs, concats, outputs, values = {}, {}, {}, {}, {}
    for i = 0, 31 do
      symbols[i + 1] = ("symbol s%d 1 2\n"):format(i)
      inputs[i + 1] = ('%%%d = input "x%d" f32[s%d]\n'):format(i, i, i)
      values["s" .. i] = i % 2 + 1
    end
    for i = 0, 3 do
      local pieces = ""
      for k = i * 8, i * 8 + 7 do pieces = pieces .. " %" .. k end
      concats[i + 1] = ("%%%d = concat%s axis=0\n"):format(32 + i, pieces)
      outputs[i + 1] = ('output "y%d" %%%d\n'):format(i, 32 + i)
    end
    local text = table.concat(symbols) .. table.concat(inputs) .. table.concat(concats) .. table.concat(outputs)
    local t = assert(one.compile(text, values)):give(eighths)
    assert.is_nil(t:judge(assert(t:oracle()), assert(t:run())))
    t = assert(one.compile('symbol d 1 9\n%0 = input "x" f32[4, d]\n%1 = sdpa %0 %0 %0 scale=0.5\noutput "y" %1\n', { d = 3 })):give(eighths)
    assert.is_nil(t:judge(assert(t:oracle()), assert(t:run())))
  end)

  it("take graphs of thousands of nodes", function()
    for name, text in pairs {
      adds_2000 = chain(2000, function(i) return ("add %%%d %%0"):format(i - 1) end),
      mixed_5000 = chain(5000, function(i)
        if i % 7 == 0 then return ("softmax %%%d"):format(i - 1) end
        if i % 11 == 0 then return ("reshape %%%d shape=[n, 3]"):format(i - 1) end
        return ("add %%%d %%%d"):format(i - 1, math.floor(i / 2))
      end),
      distinct_5000 = chain(5000, function(i) return ("scale %%%d mul=%g"):format(i - 1, 1 + i / 1e8) end),
    } do
      local t = assert(one.compile(text, { n = 2 })):give(eighths)
      local results = assert(t:guarded(true))
      assert.is_nil(t:judge(assert(t:oracle()), results))
      print(("large_graph_%s 0 1 0 %.0f_ms"):format(name, t.kernel.ms.total))
      collectgarbage()
    end
  end)

  it("leave memory as it was over 1,000 runs of changing shapes", function()
    local t = assert(one.compile([[
symbol b 0 100
symbol t 0 100
%0 = input "x" f32[b, t, 8]
%1 = buffer "m" f32[8] init=zeros
%2 = softmax %0 axis=1
%3 = permute %2 perm=1,0,2
%4 = matmul %0 %2 tb=1
%5 = reduce_sum %0 axes=0,1
%6 = add %5 %1
output "y" %3
output "z" %4
update "m" %6
]]))
    local function round(i)
      t.values = { b = i * 7 % 11, t = i * 13 % 23 }
      local results = assert(t:give(eighths):run(nil, i, i))
      if i % 40 == 0 then assert.is_nil(t:judge(assert(t:oracle(i, i)), results)) end
    end
    for i = 1, 253 do round(i) end -- every shape once: the frame has its largest workspace
    collectgarbage()
    collectgarbage()
    local before = tonumber(C.es_memory_live())
    for i = 1, 1000 do round(i) end
    collectgarbage()
    collectgarbage()
    local grown = tonumber(C.es_memory_live()) - before
    print(("changing_shapes 0 1000 0 %d_blocks"):format(grown))
    assert.is_true(grown <= 4, grown .. " blocks more than before") -- leaves of the last round may still be held
  end)

  it("give ENOMEM wherever memory runs out in a compile and a run, keep nothing and work again", function()
    local source, x = "transformer/lora", tensor.randn { 1, 2, 384 }
    local function tour()
      local made, why, status = compile.compile(source, { mode = "eval" })
      if not made then return nil, why, status end
      local k = kernel.wrap(made)
      return k:run({ x = x }, { unproved = true })
    end
    local function live()
      for _ = 1, 4 do collectgarbage() end
      return tonumber(C.es_memory_live())
    end
    local function every(from)
      local succeeded, n = 0, from
      while succeeded < 3 do -- past the last allocation
        C.es_memory_fail_at(n)
        local caught, out, why, status = pcall(tour)
        C.es_memory_fail_at(0)
        succeeded = caught and out and succeeded + 1 or 0
        if not (caught and out) then
          assert.truthy(caught and status == "ENOMEM" or tostring(out):find "memory", ("allocation %d: %s %s"):format(n, tostring(status), tostring(why or out)))
        end
        n = n + 7
      end
      return n
    end
    assert.truthy(tour())
    local last, before = every(1), live()
    assert.truthy(last > 300, last)
    every(4)
    assert.truthy(live() <= before + 8) -- LuaJIT may keep a few objects alive in its traces
    assert.truthy(tour())
  end)
end)
