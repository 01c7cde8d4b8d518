-- Blueprint files nobody vouches for: whatever they do, one clear error, and the process goes on unharmed.
local files = require "support.files"
local native = require "esper.native"
local sandbox = require "esper.sandbox"
local blueprint = require "esper.blueprint"

local GOOD = 'return blueprint "t/good" { input = { x = { "batch", 8 } }, build = function(g, x) return { y = g.linear(x, 8) } end }'

local function body(code)
  return 'return blueprint "t/evil" { input = { x = { "batch", 8 } }, build = function(g, x, h)\n' .. code .. "\nreturn { y = x } end }"
end

-- Short limits keep the spec quick; what stops a build is the same at any limit.
local box
local function fresh_box() box = assert(sandbox.new { memory = 32 * 1024 * 1024, instructions = 5e6, milliseconds = 3000 }) end

local function attempt(text)
  local path = files.write("evil.lua", text)
  local found, chunk, origin = blueprint.find(path)
  assert.equal("file", origin)
  return path, box:build(found, chunk, {})
end

local function works()
  local graph = box:build(GOOD, "@good.lua", {})
  return graph and graph:count() == 4
end

-- The build is refused with `status`; one message names the file; afterwards the box builds.
local function refused(what, text, status, fragment)
  local path, graph, errors, got = attempt(text)
  assert.is_nil(graph, what .. " was accepted")
  assert.equal(status, got, what .. ": " .. tostring(errors[1]))
  assert.truthy(#errors >= 1 and errors[1]:sub(1, #path) == path, what .. ": " .. errors[1])
  if fragment then assert.truthy(errors[1]:find(fragment, 1, true), what .. ": " .. errors[1]) end
  assert.is_true(works(), what .. " left the sandbox unusable")
end

local ENDLESS = {
  plain = "while true do end",
  goto_like = "repeat until false",
  swallowed = "while true do pcall(function() while true do end end) end",
  edge = "local function e(n) if n == 0 then while true do end end return 1 + e(n - 1) end "
    .. "local function l(n) if n > 0 then return 1 + l(n - 1) end while true do pcall(e, 8) end end for i = 1, 20000 do pcall(l, i) end",
  comparison = "local t = {} for i = 1, 1000 do t[i] = i end table.sort(t, function() while true do end end)",
  metamethod = "while true do local y = x + 1 end",
  iterator = "for _ in function() return 1 end do end",
  nodes = "for i = 1, 1e6 do x = g.relu(x) end",
  text = "local s = 'a' while true do s = ('ab'):rep(1000):upper():reverse() end",
}

local HUNGRY = {
  tables = "local t = {} for i = 1, 1e9 do t[i] = {} end",
  doubling = "local s = 'x' while true do s = s .. s end",
  list = "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(100000) .. i end",
  swallowed = "while true do pcall(function() local t = {} for i = 1, 1e9 do t[i] = { i } end end) end",
  closures = "local f = function() end for i = 1, 1e9 do local g = f f = function() return g end end",
  concat = "local t = {} for i = 1, 1e4 do t[i] = ('x'):rep(1e4) end local s = table.concat(t)",
}

local ABSENT = { "io", "os", "ffi", "debug", "load", "loadstring", "loadfile", "dofile", "require", "getfenv", "setfenv",
  "getmetatable", "setmetatable", "newproxy", "jit", "package", "module", "collectgarbage", "rawget", "rawset", "rawequal", "print",
  "coroutine", "xpcall", "gcinfo", "_G", "bit", "arg", "esper", "native" }

-- Statements that must end as one mistake of the blueprint (EBLUEPRINT), with a fragment of the message.
local MISTAKES = {
  { "return ffi", "local f = ffi", "'ffi' is not available" },
  { "string metatable", "local s = ('x').gsub", nil, true },
  { "dump", "string.dump(function() end)" }, { "pattern bomb", "('a'):rep(1000):find(('a*'):rep(1000) .. 'b')" },
  { "rep bomb", "local s = ('x'):rep(1e9)", "1 MiB" }, { "rep method", "local s = string.rep('xy', 2 ^ 40)", "1 MiB" },
  { "format bomb", "string.format('%999999d', 3)" }, { "format address", "string.format('%p', {})" },
  { "recursion under pcall", "local function f() while true do pcall(f) end end f()", "stack overflow" },
  { "recursion in a scope", "local function f() while true do g.scope('a', f) end end f()", "stack overflow" },
  { "recursion", "local function f(n) return 1 + f(n + 1) end f(1)", "stack overflow" },
  { "recursion in an operator", "local function f() return x + f() end f()", "stack overflow" },
  { "sort in sort", "table.sort({ 2, 1 }, function() table.sort({ 2, 1 }) end)", "sort" },
  { "error nil", "error()" }, { "error table", "error({})", "a table" }, { "error function", "error(function() end)", "a function" },
  { "error tensor", "error(x)" }, { "error boolean", "error(false)" },   { "giant shape", "g.param('w', { 2 ^ 40, 2 ^ 40 }, g.zeros)" }, { "giant expand", "g.expand(g.param('w', { 1 }, g.zeros), { 2 ^ 39, 2 ^ 39 })", "2^40" },
  { "infinite extent", "x:reshape { 1 / 0 }" }, { "nan extent", "x:reshape { 0 / 0 }" }, { "long name", "g.param(('x'):rep(1e5), { 1 }, g.zeros)" },
  { "self-containing list", "local t = {} t[1] = t g.reshape(x, t)" }, { "assignment to g", "g.relu = nil" },
  { "assignment to h", "h.dim = 3" }, { "assignment to x", "x.y = 1" }, { "deep list", "local t = {} for i = 1, 1e4 do t = { t } end g.reshape(x, t)" },
}

local WHOLE = {
  { "empty file", "", "returned nil" }, { "not a blueprint", "return 3", "returned 3" }, { "a table", "return {}", "returned a table" },
  { "bytecode", string.dump(function() end) }, { "loop at file level", "while true do end", nil, "ESANDBOX" },
  { "syntax", "return blueprint 'a/b' {", "near '<eof>'" }, { "no name", "return blueprint(nil) {}", "name" },
  { "no body", "return blueprint 'a/b' (nil)", "body is nil" }, { "error at file level", "error('no')", "no" },
  { "error object at file level", "error({})", "a table" }, { "deep nesting", "return " .. ("("):rep(1000) .. "1" .. (")"):rep(1000) },
  { "build raises nothing", 'return blueprint "a/b" { input = { x = { 8 } }, build = function() end }', "returned nil" },
  { "endless input", 'return blueprint "a/b" { input = { x = function() while true do end end }, build = function(g, x) return { y = x } end }', nil, "ESANDBOX" },
  { "endless check", 'return blueprint "a/b" { hyper = { a = 1 }, check = function() while true do end end, input = { x = { 8 } }, build = function(g, x) return { y = x } end }', nil, "ESANDBOX" },
  { "binary", "\0\1\2\3\255" }, { "invalid UTF-8", "return '\255\254'" },
}

describe("sandbox", function()
  setup(fresh_box)
  teardown(function() box = nil collectgarbage() end)

  for what, code in pairs(ENDLESS) do
    it("stops a blueprint that never ends: " .. what, function() refused(what, body(code), "ESANDBOX", "does a loop never end?") end)
  end
  for what, code in pairs(HUNGRY) do
    it("stops a blueprint that eats memory: " .. what, function() refused(what, body(code), "ESANDBOX", "stopped by the sandbox") end)
  end
  it("gives no way out", function()
    for _, name in ipairs(ABSENT) do
      refused(name, body("local v = " .. name), "EBLUEPRINT", ":2: '" .. name .. "' is not available in a blueprint")
      refused(name .. " by pcall", body("local ok, v = pcall(function() return " .. name .. " end) if ok then return { y = x } end error('kept out')"),
        "EBLUEPRINT", "kept out")
    end
  end)
  for _, row in ipairs(MISTAKES) do
    it("reports " .. row[1], function() refused(row[1], body(row[2] .. (row[4] and " s()" or "")), "EBLUEPRINT", row[3]) end)
  end
  for _, row in ipairs(WHOLE) do
    it("reports " .. row[1], function() refused(row[1], row[2], row[4] or "EBLUEPRINT", row[3]) end)
  end

  it("refuses what is no readable file", function()
    local deny = files.write("deny.lua", GOOD)
    os.execute("mkdir -p '" .. files.path "dir.lua" .. "'; head -c 2000000 /dev/zero > '" .. files.path "big.lua" .. "'")
    for path, want in pairs { [files.path "dir.lua"] = "EIO", [files.path "absent.lua"] = "ENOTFOUND", [files.path "big.lua"] = "ELIMIT",
        [deny .. "/x.lua"] = "ENOTFOUND" } do
      local graph, errors, status = sandbox.build(path)
      assert.is_nil(graph)
      assert.equal(want, status)
      assert.truthy(#errors == 1 and errors[1]:find(path, 1, true), errors[1])
    end
  end)

  it("cannot touch the next blueprint or the host", function()
    local path, graph = attempt(body "string.upper = nil table.insert = nil math.max = nil pcall = nil ipairs = nil")
    assert.truthy(graph, path)
    assert.truthy(select(2, attempt(body "local t = {} table.insert(t, ('a'):upper()) for _ in ipairs(t) do math.max(1, 2) end")))
    assert.equal("A", ("a"):upper())
  end)

  it("gives the same graph every time", function()
    local _, first = attempt(body "local t = { a = 1, b = 2, c = 3, d = 4, e = 5 } for k, v in pairs(t) do x = g.scale(x, v, 0) end")
    local _, second = attempt(body "local t = { e = 5, c = 3, a = 1, d = 4, b = 2 } for k, v in pairs(t) do x = g.scale(x, v, 0) end")
    assert.equal(first:hash(), second:hash())
  end)

  it("gives back what stopped builds held", function()
    local function live()
      box = nil
      collectgarbage() collectgarbage()
      return tonumber(native.C.es_memory_live())
    end
    local before = live()
    for _ = 1, 3 do
      fresh_box()
      for _, code in pairs(HUNGRY) do attempt(body(code)) end
      attempt(body "for i = 1, 1e6 do x = g.relu(x) end")
    end
    assert.equal(before, live())
    fresh_box()
  end)
end)
