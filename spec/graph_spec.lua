-- The graph core: identity, text, dims algebra, and what every op refuses.
local dims = require "esper.dims"
local graph = require "esper.graph"
local native = require "esper.native"

local HEAD = [[
graph "t/all"
symbol b 0 100
symbol s 0 100
symbol t 4 100
%0 = input "x" f32[b, t, 64]
%1 = input "img" f32[b, 12, t, t]
%2 = input "ids" i64[b, t]
%3 = input "y" f64[b, t, 64]
%4 = input "z" f32[b, s, 64]
%5 = input "h" bf16[b, t]
%6 = const f32[] value=1
%7 = input "n" f32[2, 3, 4]
%8 = input "v" f32[64]
%9 = input "m" bool[t, t]
]]

-- Status of adding one node to HEAD's graph, and the node.
local ROWS = [[
ok add %0 %8|EDTYPE add %0 %3|ESHAPE add %0 %4|ESHAPE add %7 %8|EDTYPE exp %5|EDTYPE neg %2|ok cast %5 to=f32
ok stop_grad %2|EOP add %0|EOP neg %0 %0|ok lerp %0 %0 %6|ok bias_add %0 %8 axis=2|ESHAPE bias_add %0 %8 axis=1
EATTR bias_add %0 %8 axis=3|EATTR dropout %0 p=1|EATTR dropout %0 p=-0.1|ok dropout %0 p=0|ESYNTAX dropout %0
EATTR dropout %0 p=nan|EATTR noise %0 std=-1|EATTR noise %0 std=inf|EATTR dropout %0 p=0.5 stream=-2
ok dropout %0 p=0.5 stream=4294967295|EATTR dropout %0 p=0.5 stream=4294967296|ok clamp %0 lo=-inf hi=inf
EATTR clamp %0 lo=1 hi=0|EATTR clamp %0 lo=nan hi=0|ok reduce_sum %0 axes=0,2|EATTR reduce_sum %0 axes=3
ESYNTAX reduce_sum %0|EDTYPE reduce_sum %2 axes=0|EATTR reduce_sum %0 axes=0 keepdim=2
EATTR reduce_var %0 axes=0 correction=-1|EATTR reduce_sum %6 axes=0|ok softmax %0|ESHAPE softmax %6
ok layer_norm %0 %8 %8|ESHAPE layer_norm %0 %8 dims=2|EATTR layer_norm %0 dims=4|EATTR layer_norm %0 eps=0
ok rms_norm %0 %8|ESHAPE rms_norm %7 %8|ok group_norm %1 groups=3|EATTR group_norm %1 groups=5
EATTR group_norm %1 groups=0|ESHAPE group_norm %0 groups=1|ESHAPE linear %0 %0|ESHAPE linear %0 %7
ok matmul %0 %0 tb=1|ESHAPE matmul %0 %0|ESHAPE matmul %0 %4 tb=1 ta=1|ESHAPE matmul %0 %8|ok matmul %0 %4 tb=1
ESHAPE conv2d %1 %0|ESHAPE conv2d %0 %1|ok max_pool2d %1 kernel=2,2|EATTR max_pool2d %1 kernel=2,2 pad=2,0
EATTR max_pool2d %1 kernel=0,2|ESHAPE max_pool2d %1 kernel=200,2|ESHAPE avg_pool2d %0 kernel=2,2
EATTR adaptive_avg_pool2d %1 out=0,1|ok reshape %0 shape=[b*t, 64]|ok reshape %0 shape=[b, 8*t, 8]
ESHAPE reshape %0 shape=[b, 64]|ESHAPE reshape %7 shape=[-4, -6]|ok permute %0 perm=2,0,1|EATTR permute %0 perm=2,0,0
EATTR permute %0 perm=2,0,3|ok slice %0 axis=1 start=[0] stop=[4]|ESHAPE slice %0 axis=1 start=[0] stop=[5]
ESHAPE slice %0 axis=0 start=[0] stop=[1]|ok slice %0 axis=1 start=[t//2] stop=[t]
ESHAPE slice %0 axis=1 start=[t] stop=[t//2]|ESHAPE slice %0 axis=1 start=[-1] stop=[2]
EATTR slice %0 axis=1 start=[0] stop=[2] step=0|ok slice %0 axis=2 start=[0] stop=[64] step=3
ESHAPE slice %0 axis=1 start=[0] stop=[s]|ESYNTAX slice %0 axis=1 start=[0] stop=[q]|ok concat %0 %4 axis=1
ESHAPE concat %0 %4 axis=2|ESHAPE concat %0 %8 axis=0|EDTYPE concat %0 %3 axis=0|ok concat %0 axis=0
ok expand %6 shape=[b, 3]|ESHAPE expand %8 shape=[64, 3]|ESHAPE expand %0 shape=[64]|ok expand %8 shape=[t, 64]
ok sdpa %0 %0 %0 %9|ok sdpa %0 %4 %4|ESHAPE sdpa %0 %4 %0|ESHAPE sdpa %0 %4 %4 %9|EDTYPE sdpa %0 %0 %0 %2
ok sdpa %0 %0 %0 %6|EDTYPE sdpa %0 %0 %3|ESHAPE sdpa %0 %1 %1|EATTR sdpa %0 %0 %0 scale=inf|ok rope %0|ESHAPE rope %1
EATTR rope %0 base=0|ESHAPE rope %8|ESHAPE embedding %0 %2|ok gather %2 %2 axis=0|ESHAPE gather %0 %2 axis=0
EDTYPE gather %0 %0 axis=0|EDTYPE scatter_add %0 %0 %0 axis=0|ok topk %0 k=4 axis=1|ESHAPE topk %0 k=5 axis=1
EATTR topk %0 k=0 axis=1|ok topk_index %0 k=64|EDTYPE cross_entropy %0 %0|ok cross_entropy %0 %2
EDTYPE cross_entropy %0 %5|ENAME input "x" f32[1]|ENAME input f32[1]|ESYNTAX input "a b" f32[1]|ENAME input "0a" f32[1]
ESYNTAX input "a" f33[1]|ESHAPE input "a" f32[-1]|ok input "a" f32[0]|ELIMIT input "a" f32[1099511627777]
ELIMIT input "a" f32[1099511627776, 2]|ok input "a" f32[1099511627776, 0, 5]|ok input "a" f32[b - 1]
ESHAPE input "a" f32[-b - 1]|ESYNTAX input "a" f32[1,2,3,4,5,6,7,8,9]|ESHAPE param "p" f32[b] init=zeros
ESHAPE param "p" f32[0] init=zeros|ELIMIT param "p" f32[65536, 65536] init=zeros|ok param "p" f32[] init=ones
ESHAPE param "p" f32[3] init=eye|EDTYPE param "p" i64[3] init=zeros|ok buffer "p" i64[3] init=const(7)
EATTR buffer "p" i64[3] init=const(7.5)|EDTYPE buffer "p" i64[3] init=normal(0, 1)|EDTYPE param "p" bf16[3] init=zeros
ESYNTAX param "p" f32[3] init=normal(0)|EATTR param "p" f32[3] init=normal(0, -1)|EATTR param "p" f32[3] init=uniform(1, 0)
ESYNTAX param "p" f32[3] init=foo|EATTR param "p" f32[3] init=normal(0, inf)|ok param "p" f32[3] init=const(-inf)
ok param "p" f32[3]|ok const f32[] value=nan|EATTR const f32[] value=1e300|ok const f64[] value=1e300
EATTR const i64[] value=0.5|EATTR const bool[] value=2|ESYNTAX const f32[2] value=0|ESYNTAX neg %10|ESYNTAX neg %11
ESYNTAX neg %0 : f32[b, t, 65]|ok neg %0 : f32[b, t, 64] "lab"|ESYNTAX neg %0 foo=1|ESYNTAX gelu %0 tanh=1 tanh=0
ESYNTAX gellu %0|EATTR scale %0 mul=inf|ESYNTAX concat %0 %0 %0 %0 %0 %0 %0 %0 %0 axis=0]]

local function parse(text)
  local g, message, status = graph.parse(text)
  return g, message, status or "ok"
end

-- A graph over x f32[batch, 8] made by steps(g, x) -> output id.
local function made(steps, name, dtype)
  local g = graph.new(name or "t/x")
  local x = assert(g:add { op = "input", name = "x", dtype = dtype, attrs = { shape = { g:dims():symbol "batch", g:dims():const(8) } } })
  assert(g:root("output", "y", steps(g, x)))
  return g
end
local function node(g, op, inputs, attrs, name) return assert(g:add { op = op, inputs = inputs, attrs = attrs, name = name }) end

describe("graph", function()
  it("judges one node of every kind as its rule says, naming the op and what is wrong", function()
    local wrong, count = {}, 0
    for row in ROWS:gmatch("[^|\n]+") do
      local want, line = row:match("^(%u+) (.*)$")
      if not want then want, line = row:match("^(ok) (.*)$") end
      count = count + 1
      local _, message, status = parse(HEAD .. "%10 = " .. line .. "\n")
      local said = status == "ok" or (#message > 15 and message:find "line 15" and not message:find "\n")
      if status ~= want or not said then wrong[#wrong + 1] = ("%s: %s %s"):format(row, status, tostring(message)) end
    end
    assert.same({}, wrong)
    assert.is_true(count > 130)
  end)

  it("says what it got and what it wanted when shapes do not fit", function()
    for line, parts in pairs {
      ["linear %0 %7"] = { "linear", "%[2, 3, 4%]" }, ["matmul %0 %0"] = { "matmul", "64", "t" },
      ["add %0 %4"] = { "add", "%[b, t, 64%]", "%[b, s, 64%]" }, ["reshape %0 shape=[b, 64]"] = { "reshape", "64" },
      ["concat %0 %4 axis=2"] = { "concat", "t", "s" }, ["topk %0 k=5 axis=1"] = { "topk", "5" },
    } do
      local _, message = parse(HEAD .. "%10 = " .. line .. "\n")
      for _, part in ipairs(parts) do assert.truthy(message:find(part), line .. ": " .. message) end
    end
  end)

  it("suggests the op that was meant", function()
    for typed, meant in pairs { sofmax = "softmax", lineer = "linear", conv2 = "conv2d", gellu = "gelu" } do
      assert.equal(meant, native.suggest(typed))
    end
    assert.is_nil(native.suggest "zzzzzzzzz")
    local _, message = parse(HEAD .. "%10 = sofmax %0\n")
    assert.truthy(message:find("softmax", 1, true), message)
  end)

  it("refuses cycles, forward references, wrong numbering, double roots and roots of nothing", function()
    for _, tail in ipairs { "%10 = neg %10\n", "%10 = neg %11\n%11 = neg %10\n", "%11 = neg %0\n", "output \"o\" %10\n",
        "output \"o\" %0\noutput \"o\" %1\n", "update \"x\" %0\n", "%10 = neg %-1\n", "%10 = neg %4294967296\n", "\0", "%10 = " } do
      local g, message, status = parse(HEAD .. tail)
      assert.is_nil(g, tail)
      assert.truthy(native.status[status] and #message > 10 and not message:find "\n", tail)
    end
  end)

  it("has one identity for equal graphs, and another for anything that changes the numbers", function()
    local function hash(steps, name, dtype) return assert(made(steps, name, dtype):hash()) end
    local base = hash(function(g, x) return node(g, "sub", { node(g, "relu", { x }, {}, "a"), node(g, "tanh", { x }, {}, "b") }) end)
    assert.equal(base, hash(function(g, x) -- other order of statements, other labels, a dead node
      local b = node(g, "tanh", { x }, {}, "second")
      node(g, "exp", { x })
      return node(g, "sub", { node(g, "relu", { x }), b }, {}, "out")
    end, "other/name"))
    local seen = { [base] = "base" }
    for what, h in pairs {
      swapped = hash(function(g, x) return node(g, "sub", { node(g, "tanh", { x }), node(g, "relu", { x }) }) end),
      op = hash(function(g, x) return node(g, "add", { node(g, "relu", { x }), node(g, "tanh", { x }) }) end),
      dtype = hash(function(g, x) return node(g, "sub", { node(g, "relu", { x }), node(g, "tanh", { x }) }) end, nil, "f64"),
      scale1 = hash(function(g, x) return node(g, "scale", { x }, { mul = 2, add = 0 }) end),
      scale2 = hash(function(g, x) return node(g, "scale", { x }, { mul = 2, add = -0.0 }) end),
      axis = hash(function(g, x) return node(g, "softmax", { x }, { axis = 0 }) end),
      axis1 = hash(function(g, x) return node(g, "softmax", { x }, { axis = 1 }) end),
    } do
      assert.is_nil(seen[h], what .. " has the identity of " .. tostring(seen[h]))
      seen[h] = what
    end
    assert.equal(hash(function(g, x) return node(g, "softmax", { x }, { axis = -1 }) end),
      hash(function(g, x) return node(g, "softmax", { x }, { axis = 1 }) end))
  end)

  it("prints and parses back, labels and extreme numbers included", function()
    local text = HEAD .. '%10 = clamp %0 lo=-inf hi=0.1 "lab"\n%11 = scale %10 mul=5e-324 add=1.7976931348623157e+308\n'
      .. '%12 = const f64[] value=nan\n%13 = slice %11 axis=1 start=[t//2] stop=[t] step=2\noutput "o" %13\n'
    local g = assert(graph.parse(text))
    local again = assert(graph.parse(g:text(true)))
    assert.equal(g:text(true), again:text(true))
    assert.equal(g:hash(), again:hash())
    local canonical = assert(g:canonical())
    assert.equal(canonical:text(false), assert(canonical:canonical()):text(false))
    assert.is_true(canonical:check())
  end)
end)

describe("dims", function()
  it("simplify to one form", function()
    local D = dims.new()
    for text, want in pairs { ["h*w - w*h + 3"] = "3", ["4*h//2"] = "2*h", ["h + h"] = "2*h", ["(6*h + 4)//2"] = "3*h + 2" } do
      assert.equal(want, D:text(assert(D:parse(text))))
    end
    for _, text in ipairs { "h*w - w*h + 3", "(h+1)//2*2 - h", "((h+1)//2+1)//2", "-h//2", "(-5*h)//3", "t//3*3", "t - t//2" } do
      local d = assert(D:parse(text))
      assert.equal(d, D:parse(D:text(d)))
    end
    local a, b = D:symbol "a", D:symbol "b"
    assert.equal(D:mul(D:add(a, b), D:const(2)), D:add(D:add(b, a), D:add(a, b)))
    assert.equal(D:sub(a, a), D:const(0))
    assert.equal(D:ceildiv(a, 4), D:floordiv(D:add(a, D:const(3)), 4))
  end)

  it("agree with integer arithmetic on random expressions", function()
    local seed, checked = 11, 0
    local state = seed
    local function int(n) state = state * 48271 % 2147483647 return math.floor(state / 2147483647 * n) end
    local names = { "h", "n", "t" }
    for _ = 1, 100 do
      local D = dims.new()
      local list = {}
      for i, name in ipairs(names) do
        D:symbol(name)
        D:range(name, 0, 30)
        list[i] = { D:symbol(name), function(v) return v[name] end }
      end
      for _ = 1, 25 do
        local x, y, k, op = list[int(#list) + 1], list[int(#list) + 1], int(6) + 1, int(5)
        local d = op == 0 and D:add(x[1], y[1]) or op == 1 and D:sub(x[1], y[1]) or op == 2 and D:mul(x[1], D:const(k - 3))
          or op == 3 and D:floordiv(x[1], k) or D:ceildiv(x[1], k)
        list[#list + 1] = { d, function(v)
          local p = x[2](v)
          if op == 0 then return p + y[2](v) elseif op == 1 then return p - y[2](v) elseif op == 2 then return p * (k - 3)
          elseif op == 3 then return math.floor(p / k) end
          return math.ceil(p / k)
        end }
      end
      for _ = 1, 10 do
        local v = { h = int(31), n = int(31), t = int(31) }
        local all = assert(D:eval(v))
        for _, e in ipairs(list) do
          if e[1] >= 0 then
            local low, high = D:bounds(e[1])
            local want = e[2](v)
            assert.equal(want, all[e[1]], D:text(e[1]))
            assert.is_true(low <= want and want <= high, D:text(e[1]))
            checked = checked + 1
          end
        end
      end
    end
    print(("dims_random %d %d 0 100_tables"):format(seed, checked))
    assert.is_true(checked > 20000)
  end)

  it("refuse malformed and overflowing texts", function()
    for _, bad in ipairs { "", "(", "h+", "9999999999999999999999", "h//0", ("("):rep(40) .. "h", "h**2", "h/2", "1a", "$",
        "h*4611686018427387904*8", "4611686018427387905*h" } do
      local d, message, status = dims.new():parse(bad)
      assert.truthy(not d and native.status[status] and #message > 5 and not message:find "\n", bad .. ": " .. tostring(message))
    end
  end)
end)
