-- How long from a blueprint's name to a callable kernel? Cold (nothing stored) and from the store, over the catalogue.
-- luajit bench/compile.lua [rounds]    prints median, p99 and worst in wall and processor milliseconds, and the slowest cases.
package.path = "lua/?.lua;lua/?/init.lua;?.lua;" .. package.path
package.cpath = "build/?.so;" .. package.cpath
jit.off() -- as the embedded searcher does for Esper's own modules (src/bind/state.c)
local compile = require "esper.compile"
local native = require "esper.native"
local sandbox = require "esper.sandbox"
local text = require "esper.text"
local urza = require "esper.urza"
local rounds = tonumber(arg[1] or 20)
local directory = os.tmpname()
os.remove(directory)
local store = assert(urza.open(directory))

local function once(name, mode, with)
  local cpu, wall = os.clock(), native.C.es_clock_ms()
  local made, why = compile.compile(name, { mode = mode, build = sandbox.build, read = sandbox.read,
    identity = sandbox.identity, store = with })
  assert(made, type(why) == "table" and why[1] or why)
  return native.C.es_clock_ms() - wall, (os.clock() - cpu) * 1e3, made
end

local function quantile(list, q)
  table.sort(list)
  return list[math.max(1, math.ceil(q * #list))]
end

local names, cases = require("esper.blueprint").catalogue(), {}
for _, name in ipairs(names) do
  for _, mode in ipairs { "eval", "train" } do cases[#cases + 1] = { name = name, mode = mode, cold = {}, cpu = {}, stored = {} } end
end
for _, c in ipairs(cases) do once(c.name, c.mode, store.ptr) end
for _ = 1, rounds do
  for _, c in ipairs(cases) do
    local wall, cpu, made = once(c.name, c.mode)
    c.cold[#c.cold + 1], c.cpu[#c.cpu + 1], c.ms = wall, cpu, made.ms
    local again, _, found = once(c.name, c.mode, store.ptr)
    assert(found.status == "CACHED")
    c.stored[#c.stored + 1] = again
  end
end

local rows, all = {}, { cold = {}, cpu = {}, stored = {} }
rows[1] = { "blueprint", "mode", "cold ms", "cpu ms", "stored ms", "blueprint", "key", "passes", "recipes", "libtcc", "plan", "load" }
for _, c in ipairs(cases) do
  for kind, list in pairs(all) do
    for _, v in ipairs(c[kind]) do list[#list + 1] = v end
  end
  local function ms(stage) return ("%.2f"):format(c.ms[stage] or 0) end
  rows[#rows + 1] = { c.name, c.mode, ("%.2f"):format(quantile(c.cold, 0.5)), ("%.2f"):format(quantile(c.cpu, 0.5)),
    ("%.2f"):format(quantile(c.stored, 0.5)), ms "blueprint", ms "key", ms "passes", ms "recipes", ms "object", ms "plan", ms "load" }
end
table.sort(rows, function(a, b) return (tonumber(a[3]) or 1e9) > (tonumber(b[3]) or 1e9) end)
print(text.columns(rows, "llrrrrrrrrrr"))
for _, kind in ipairs { "cold", "cpu", "stored" } do
  print(("%-6s median %.2f ms, p99 %.2f ms, worst %.2f ms over %d blueprints and modes, %d rounds"):format(kind,
    quantile(all[kind], 0.5), quantile(all[kind], 0.99), quantile(all[kind], 1), #cases, rounds))
end
os.execute("rm -rf " .. directory)
