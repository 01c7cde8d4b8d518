-- The index of the store: a known source leads to its record without being built, and to nothing else.
local artifact = require "esper.artifact"
local compile = require "esper.compile"
local files = require "support.files"
local kernel = require "esper.kernel"
local native = require "esper.native"
local sandbox = require "esper.sandbox"
local urza = require "esper.urza"
local validate = require "esper.validate"
local blueprint = require "esper.blueprint"
local C = native.C

local TEXT = [[
return blueprint "t/indexed" {
  hyper = { dim = 8 },
  input = { x = { "batch", "dim" } },
  build = function(g, x, h) return { y = g.relu(g.linear(x, h.dim)) } end,
}
]]

local stores = 0
local function new_store()
  stores = stores + 1
  return assert(urza.open(files.path("store" .. stores)))
end

local built -- how often a blueprint was run since `attempt` began
local function counting(source, opts)
  built = built + 1
  return sandbox.build(source, opts)
end

-- Compiles against the store; the result, and whether the blueprint was run.
local function attempt(store, source, more)
  built = 0
  local opts = { build = counting, read = sandbox.read, identity = sandbox.identity, store = store.ptr, mode = "eval", dtype = "f32" }
  for k, v in pairs(more or {}) do opts[k] = v end
  local made, why = compile.compile(source, opts)
  assert(made, type(why) == "table" and why[1] or why)
  return made, built > 0
end

local function report(store)
  local r = native.new "es_store_report"
  assert.equal(0, tonumber(C.es_store_verify(store.ptr, r, native.fresh())))
  return { records = tonumber(r.records), indexed = tonumber(r.indexed), orphans = tonumber(r.orphans), bad = tonumber(r.index_bad) }
end

local function collect(store, bytes)
  local deleted = native.new "int64_t[1]"
  assert.equal(0, tonumber(C.es_store_gc(store.ptr, -1, bytes or -1, deleted, native.fresh())))
  return tonumber(deleted[0])
end

describe("one text gives one graph", function()
  it("in any state, over the catalogue", function()
    for _, name in ipairs(blueprint.catalogue()) do
      local source, seen = assert(sandbox.read(name)), {}
      for _, mode in ipairs { "eval", "train" } do
        seen[assert(sandbox.build(source, { mode = mode })):hash() .. mode] = true
        for _ = 1, 2 do -- each box is a Lua state of its own, with its own seed for hashing strings
          local box = assert(sandbox.new())
          seen[assert(box:build(source.text, source.chunk, { mode = mode })):hash() .. mode] = true
        end
      end
      local count = 0
      for _ in pairs(seen) do count = count + 1 end
      assert.equal(2, count, name)
    end
  end)

  it("with pairs and next over any keys", function()
    local code = [[
      local function walk(names)
        local t, all, rest = { 10, 20, [7] = 70, [2.5] = 1, [true] = 2, [false] = 3 }, "", ""
        for _, n in ipairs(names) do t[n] = #n end
        t[x] = 4
        for k, v in pairs(t) do all = all .. (k == x and "x" or tostring(k)) .. "=" .. v .. " " end
        local k, v = next(t)
        while k ~= nil do
          rest = rest .. (k == x and "x" or tostring(k)) .. "=" .. v .. " "
          t[k] = nil
          k, v = next(t, k)
        end
        assert(rest == all and next(t) == nil and next({}, 3) == nil, rest)
        return all
      end
      local one, two = walk { "b", "a", "long name", "c1", "c2", "c3" }, walk { "c3", "c2", "c1", "long name", "a", "b" }
      error(one == two and one or "differ: " .. one .. two)]]
    local _, errors = assert(sandbox.new()):build(TEXT:gsub("return { y", function() return code .. "\nreturn { y" end), "@walk.lua", {})
    assert.truthy(errors[1]:find("1=10 2=20 2.5=1 7=70 a=1 b=1 c1=2 c2=2 c3=2 long name=9 false=3 true=2 x=4", 1, true), errors[1])
    for _, call in ipairs { "for _ in pairs(t) do end", "next(t)" } do
      local text = TEXT:gsub("return { y", "local t = { [x] = 1, [h] = 2 } " .. call .. " return { y")
      local graph, problems = assert(sandbox.new()):build(text, "@order.lua", {})
      assert.is_nil(graph)
      assert.truthy(problems[1]:find("have no order", 1, true), problems[1])
    end
  end)

  it("because nothing else can be seen", function()
    local sees = { blueprint = 1, assert = 1, error = 1, ipairs = 1, next = 1, pairs = 1, pcall = 1, select = 1, tonumber = 1,
      tostring = 1, type = 1, unpack = 1, string = 1, math = 1, table = 1 }
    local env = require("esper.confined").environment()
    for name in next, env do assert.truthy(sees[name], name .. " is new to a blueprint: can its answer differ from run to run?") end
    for _, name in ipairs { "random", "randomseed" } do assert.is_nil(env.math[name]) end
    for _, name in ipairs { "dump", "gsub", "find" } do assert.is_nil(env.string[name]) end
    assert.equal("table", env.tostring {})
    assert.equal("function", env.string.format("%s", print))
    assert.is_false(pcall(env.string.format, "%p", {}))
  end)
end)

describe("the index", function()
  it("finds every blueprint of the catalogue without running it, as it was compiled", function()
    local store = new_store()
    for _, name in ipairs(blueprint.catalogue()) do
      for _, mode in ipairs { "eval", "train" } do
        local first, ran = attempt(store, name, { mode = mode })
        assert.is_true(ran, name)
        local again, ran_again = attempt(store, name, { mode = mode })
        assert.is_false(ran_again, name)
        assert.equal("CACHED", again.status)
        for _, field in ipairs { "name", "key", "mode", "dtype", "isa", "hyper", "passes", "flops", "bytes", "workspace", "kernels" } do
          assert.equal(first[field], again[field], name .. " " .. field)
        end
        for _, field in ipairs { "graph", "unit", "object" } do assert.is_nil(rawget(again, field), field .. " was not asked for") end
        assert.is_true(first.object == again.object and first.unit == again.unit, name)
        assert.equal(first.graph:hash(), again.graph:hash(), name)
      end
    end
    local seen = report(store)
    assert.equal(0, seen.orphans + seen.bad)
    assert.is_true(seen.indexed >= 64 and seen.records <= seen.indexed) -- equal graphs share a record, never a source
  end)

  it("misses when anything that decides the kernel differs", function()
    local store, path = new_store(), files.write("indexed.lua", TEXT)
    local copy = files.write("copy.lua", TEXT)
    local base = attempt(store, path)
    assert.is_false(select(2, attempt(store, path)))
    for what, more in pairs { hyper = { set = { dim = 9 } }, ["hyper as text"] = { set = "dim=10" }, mode = { mode = "train" },
        dtype = { dtype = "f64" }, passes = { passes = { text = "return { passes = function(l) table.remove(l, 2) return l end }", name = "p.lua" } },
        trusted = { trusted = true } } do
      local made, ran = attempt(store, path, more)
      assert.is_true(ran, what)
      assert.truthy(what == "trusted" or made.key ~= base.key, what)
      if what ~= "trusted" then assert.is_false(select(2, attempt(store, path, more)), what) end
    end
    local _, ran = attempt(store, copy) -- errors and so pcall name the file
    assert.is_true(ran)
    files.write("indexed.lua", (TEXT:gsub("relu", "tanh")))
    local changed, rebuilt = attempt(store, path)
    assert.is_true(rebuilt and changed.key ~= base.key and changed.status == "SUCCESS")
    files.write("indexed.lua", TEXT .. "-- a comment changes the text, not the graph\n")
    local commented, reread = attempt(store, path)
    assert.is_true(reread)
    assert.equal("CACHED", commented.status)
    assert.equal(base.key, commented.key)
    assert.is_false(select(2, attempt(store, path))) -- found by its graph once, by its source from then on
  end)

  it("depends on the build and the processor", function()
    local r = { mode = "eval", dtype = "f32", isa = "scalar", passes = "p" }
    local seen = {}
    local function add(identity)
      local hash = artifact.source(r, identity)
      local hex = native.new "char[65]"
      C.es_hash_hex(hash, hex)
      local text = native.string(hex)
      assert.is_nil(seen[text])
      seen[text] = true
    end
    add "a"
    add "b"
    for field, value in pairs { mode = "train", dtype = "f64", isa = "avx2", passes = "q" } do
      local before = r[field]
      r[field] = value
      add "a"
      r[field] = before
    end
  end)

  it("is of no use to declarations and options that cannot be packed", function()
    local source = assert(sandbox.read "transformer/noop")
    assert.is_string(sandbox.identity(source, { mode = "eval" }))
    assert.is_nil(sandbox.identity(source, { set = { dim = print } }))
    assert.is_nil(sandbox.identity(source, { trusted = true }))
    local store = new_store()
    local declaration = blueprint.define "t/here" { input = { x = { 4 } }, build = function(g, x) return { y = g.relu(x) } end }
    for _ = 1, 2 do assert(compile.compile(declaration, { build = blueprint.build, store = store.ptr })) end
    assert.same({ records = 1, indexed = 0, orphans = 0, bad = 0 }, report(store))
  end)

  it("gives each source its own name where graphs are equal", function()
    local store = new_store()
    local other = files.write("other.lua", (TEXT:gsub("t/indexed", "t/other")))
    local first, second = attempt(store, files.write("indexed.lua", TEXT)), attempt(store, other)
    assert.equal(first.key, second.key)
    assert.equal("t/indexed", attempt(store, files.path "indexed.lua").name)
    assert.equal("t/other", attempt(store, other).name)
  end)

  it("leads to the kernel of the choices tuned here", function()
    local store, path = new_store(), files.write("indexed.lua", TEXT)
    local plain = attempt(store, path)
    assert(artifact.save_tuning(store.ptr, plain, "class batch=8\nabcdef0123456789 rows=3\n"))
    local tuned, ran = attempt(store, path)
    assert.is_true(ran and tuned.status == "SUCCESS" and tuned.key ~= plain.key)
    local again, reran = attempt(store, path)
    assert.is_true(not reran and again.key == tuned.key)
    for _, row in ipairs(store:list()) do if row.target:find "^tuning" then assert(store:remove(row.key)) end end
    local default, rebuilt = attempt(store, path)
    assert.is_true(not rebuilt and default.key == plain.key)
    assert.is_true((select(2, attempt(store, path, { tuning = {} })))) -- choices given by hand are no source
  end)

  it("survives that the record is gone", function()
    local store, path = new_store(), files.write("indexed.lua", TEXT)
    local first = attempt(store, path)
    assert(store:remove(first.key))
    assert.same({ records = 0, indexed = 1, orphans = 1, bad = 0 }, report(store))
    local again, ran = attempt(store, path)
    assert.is_true(ran)
    assert.equal("SUCCESS", again.status)
    assert.is_false(select(2, attempt(store, path)))
    assert(store:remove(first.key))
    assert.equal(0, collect(store)) -- an entry is no record
    assert.same({ records = 0, indexed = 0, orphans = 0, bad = 0 }, report(store))
    attempt(store, path)
    assert.equal(1, collect(store, 0))
    assert.same({ records = 0, indexed = 0, orphans = 0, bad = 0 }, report(store))
  end)

  it("comes again after an import", function()
    local store, path, count = new_store(), files.write("indexed.lua", TEXT), native.new "int64_t[1]"
    local first = attempt(store, path)
    local other, file = new_store(), files.path "pack.es"
    assert.equal(0, tonumber(C.es_store_export(store.ptr, nil, file, count, native.fresh())))
    assert.equal(0, tonumber(C.es_store_import(other.ptr, file, count, native.fresh())))
    assert.same({ records = 1, indexed = 0, orphans = 0, bad = 0 }, report(other))
    local made, ran = attempt(other, path)
    assert.is_true(ran and made.status == "CACHED" and made.key == first.key)
    assert.is_false(select(2, attempt(other, path)))
  end)

  it("believes no entry that was not made for its source", function()
    local store = new_store()
    local paths = { files.write("one.lua", TEXT), files.write("two.lua", (TEXT:gsub("relu", "tanh"))) }
    local keys = { attempt(store, paths[1]).key, attempt(store, paths[2]).key }
    local entries = {}
    for i, path in ipairs(paths) do
      local r = { mode = "eval", dtype = "f32", isa = "scalar", passes = "x" }
      local source = native.new "es_source"
      source.hash, source.name = artifact.source(r, path), "t/marker" .. i
      assert.equal(0, tonumber(C.es_store_index(store.ptr, source, urza.hash_of(keys[i]), native.fresh())))
      entries[i] = source.hash
    end
    local function find(s, i)
      local key, name = native.new "es_hash", native.new("char[?]", native.source_name_max + 1)
      local status = native.statusname[tonumber(C.es_store_find(s.ptr, entries[i], key, name, native.fresh()))]
      return status == "OK" and native.string(name) or status
    end
    assert.equal("t/marker1", find(store, 1))
    local directory = store.path
    store = nil
    collectgarbage()
    collectgarbage()
    local data = files.read(directory .. "/data.mdb")
    -- An entry is key[32] mac[32] name; the two lie in one page. Swap all of them: true entries under a wrong source.
    local at = { data:find("t/marker1", 1, true) - 64, data:find("t/marker2", 1, true) - 64 }
    local length = 64 + #"t/marker1"
    local forms = {
      ["swapped"] = { [at[1]] = data:sub(at[2], at[2] + length - 1), [at[2]] = data:sub(at[1], at[1] + length - 1) },
      ["another key"] = { [at[1]] = data:sub(at[2], at[2] + 31) },
      ["another name"] = { [at[1] + 64] = "t/MARKER1" },
      ["no mac"] = { [at[1] + 32] = ("\0"):rep(32) },
    }
    for what, patches in pairs(forms) do
      local forged = files.path("forged_" .. what:gsub(" ", "_"))
      os.execute(("cp -r '%s' '%s'"):format(directory, forged))
      local file = assert(io.open(forged .. "/data.mdb", "r+b"))
      for offset, bytes in pairs(patches) do
        file:seek("set", offset - 1)
        file:write(bytes)
      end
      file:close()
      local s = assert(urza.open(forged))
      assert.equal("ENOTFOUND", find(s, 1), what)
      assert.equal(what == "swapped" and 2 or 1, report(s).bad, what)
      assert.is_false(select(2, attempt(s, paths[1])), what) -- the others are untouched
      assert.equal(0, collect(s))
      assert.equal(0, report(s).bad, what)
    end
  end)

  it("leads to a kernel that can be proved, and to its certificate", function()
    local store, path = new_store(), files.write("indexed.lua", TEXT)
    attempt(store, path)
    local k = kernel.wrap((attempt(store, path)))
    assert.is_false(built > 0)
    assert.is_nil(rawget(k, "graph"))
    local certificate = validate.certify(k, { shapes = 3 })
    assert.is_true(certificate.passed, certificate.failure)
    assert(compile.save(k, store.ptr, validate.encode(certificate)))
    local again, ran = attempt(store, path)
    assert.is_false(ran)
    assert.is_true(validate.decode(again.certificate_text).passed)
    assert.equal(k.object, again.object)
  end)

  it("refuses a name that does not fit", function()
    local store, source = new_store(), native.new "es_source"
    local name = ("n"):rep(native.source_name_max + 1)
    source.name = name
    assert.equal("EARG", native.statusname[tonumber(C.es_store_index(store.ptr, source, native.new "es_hash", native.fresh()))])
  end)
end)
