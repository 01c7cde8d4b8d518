-- What the builder of vector blocks refuses, and where it says so.
local native = require "esper.native"
local vec = require "esper.vec"
local C = native.C

describe("vector builder", function()
  local function message(body, type)
    local b = vec.block("scalar", type or "f64")
    local ok, why = pcall(body, b)
    assert.is_false(ok)
    return tostring(why)
  end

  it("refuses operands of the wrong class, type or scope, at the caller's line", function()
    assert.is_truthy(message(function(b) b:add(b:splat(1), b:isplat(2)) end):match "vec_builder_spec.lua:%d+: .*want f64")
    assert.is_truthy(message(function(b) b:load(b:splat(1)) end):match "want a g register")
    assert.is_truthy(message(function(b) b:select(b:arg(0), b:splat(1), b:splat(1)) end):match "want a m register")
    assert.is_truthy(message(function(b) b:mul(b:isplat(2), b:isplat(1)) end):match "i64; want f64")
    assert.is_truthy(message(function(b) b:shl(b:splat(2), 1) end):match "f64; want i64")
    assert.is_truthy(message(function(b) b:add(500, 501) end):match "no register")
    local escaped
    assert.is_truthy(message(function(b)
      b:loop(b:arg(0), function() escaped = b:splat(2) end)
      b:sqrt(escaped)
    end):match "inside a loop that has ended")
  end)

  it("refuses constants out of range", function()
    for _, body in ipairs {
      function(b) b:shl(b:isplat(2), 64) end, function(b) b:rotl(b:isplat(2), -1) end, function(b) b:g_shrk(b:arg(0), 64) end,
      function(b) b:arg(-1) end, function(b) b:arg(4096) end, function(b) b:load(b:arg(0), 2 ^ 31) end,
      function(b) b:isplat(2.5) end, function(b) b:splat "1" end,
    } do
      assert.is_true(#message(body) > 0)
    end
    assert.is_truthy(message(function(b) b:shl(b:isplat(2), 32) end, "f32"):match "want 0 to 31")
    assert.is_truthy(message(function(b) b:isplat(2 ^ 33) end, "f32"):match "out of range")
  end)

  it("refuses open loops, stray ends and too many loops", function()
    assert.is_truthy(message(function(b) b["end"](b) end)
      :match "no loop is open")
    assert.is_truthy(message(function(b)
      local n = b:arg(0)
      b:loop(n, function() b:lower "inside" end)
    end):match "still open")
    local function nest(b, n, depth) b:loop(n, function() nest(b, n, depth + 1) end) end
    assert.is_truthy(message(function(b) nest(b, b:arg(0), 1) end):match "the most there may be")
  end)

  it("keeps its first error", function()
    local b = vec.block("scalar", "f32")
    pcall(b.load, b, 77)
    local first = native.string(C.es_vec_failure(b.handle))
    pcall(b.sqrt, b, 99)
    assert.equal(first, native.string(C.es_vec_failure(b.handle)))
    local ok, why = pcall(b.lower, b, "name")
    assert.is_false(ok)
    assert.is_truthy(tostring(why):find(first, 1, true))
  end)

  it("refuses names that are none, and targets without a lowering", function()
    for _, name in ipairs { "", "a b", "9x", "x;y" } do
      local ok, why = pcall(vec.block("scalar", "f32").lower, vec.block("scalar", "f32"), name)
      assert.is_false(ok)
      assert.is_truthy(tostring(why):match "no C name")
    end
    assert.is_false(pcall(vec.block, "sse", "f32"))
    assert.is_false(pcall(vec.block, "scalar", "u8"))
    assert.equal(16, vec.lanes("avx512", "f32"))
    assert.equal(4, vec.lanes("avx2", "f64"))
    assert.equal(1, vec.lanes("scalar", "f32"))
  end)
end)

-- Machine code at the limits of a block.
describe("vector blocks as machine code", function()
  local machines = {}
  for _, isa in ipairs { "avx2", "avx512" } do
    if C.es_isa_supported(C.es_isa_named(isa)) then machines[#machines + 1] = isa end
  end

  -- `count` values of a kind alive at once.
  local function crowd(isa, count)
    local b = vec.block(isa, "f32")
    local x, sum, list = b:arg(0), b:splat(0), {}
    for i = 1, count do list[i] = b:load(x, 64 * i) end
    b:store(x, sum)
    for i = 1, count do b:set(sum, b:fma(list[i], list[i], sum)) end
    for i = count, 1, -1 do b:store(x, list[i], 64 * i) end
    return b
  end

  for _, isa in ipairs(machines) do
    it("touch every page of a large frame in order, and refuse a larger one: " .. isa, function()
      local text = crowd(isa, 250):assembly()
      local pages, rest = 0, nil
      for bytes, after in text:gmatch "sub rsp, (%d+)\n +%x+ +(%S[^\n]*)" do
        rest = tonumber(bytes)
        assert.is_true(rest <= 4096)
        if rest == 4096 then
          pages = pages + 1
          assert.truthy(after:find("mov QWORD PTR [rsp], rax", 1, true))
        end
      end
      assert.is_true(pages >= 1 and rest ~= nil)
      assert.equal(4096 * pages + rest, tonumber(text:match "add rsp, (%d+)"))
      local ok, why = pcall(vec.block, isa, "f32")
      assert.is_true(ok)
      ok, why = pcall(function() return crowd(isa, 2000):lower "block" end)
      assert.is_false(ok)
      assert.truthy(tostring(why):find("bytes of values at once beyond the registers", 1, true))
    end)

    it("say that memory ran out, whenever it does: " .. isa, function()
      local b = crowd(isa, 60)
      for _ = 1, 2 do collectgarbage() end
      collectgarbage "stop" -- frees no block while they are counted
      finally(function() collectgarbage "restart" end)
      local out, live = native.new "es_text", C.es_memory_live()
      for _, call in ipairs { function(err) return C.es_vec_lower(b.handle, "block", out, err) end,
        function(err) return C.es_vec_listing(b.handle, out, err) end } do
        local whole, failures
        for n = 1, 1000 do
          C.es_memory_fail_at(n)
          local status = tonumber(call(native.fresh()))
          C.es_memory_fail_at(0)
          local text = native.string(out.bytes, out.length)
          C.es_text_clear(out)
          assert.equal(live, C.es_memory_live())
          if status == 0 then
            whole, failures = text, n - 1
            break
          end
          assert.equal(native.status.ENOMEM, status)
          assert.truthy(select(2, native.failure()):find "out of memory")
        end
        assert.is_true(failures > 8)
        assert.equal(0, tonumber(call(native.fresh())))
        assert.equal(whole, native.string(out.bytes, out.length))
        C.es_text_clear(out)
      end
    end)

    it("may hold nothing: " .. isa, function()
      assert.truthy(vec.block(isa, "f64"):lower "nothing")
      assert.equal(2, select(2, vec.block(isa, "f64"):assembly():gsub("\n", "")))
    end)
  end
end)
