-- make lint: dependency directions, sole users of dangerous headers, completeness of every op, sizes of files.
-- Run from the top of the tree by luajit; prints one line per finding and exits 1 when there is any.

local findings = 0
local function report(path, line, fmt, ...)
  findings = findings + 1
  print(("%s:%s: "):format(path, line) .. fmt:format(...))
end

local function lines_of(path)
  local list = {}
  for line in io.lines(path) do list[#list + 1] = line end
  return list
end

local function files(pattern)
  local list = {}
  local pipe = io.popen("find src lua kernels blueprints spec bench -type f \\( " .. pattern .. " \\) 2>/dev/null | sort")
  for path in pipe:lines() do list[#list + 1] = path end
  pipe:close()
  return list
end

-- What a folder of src/ may include, besides itself and esper.h.
local MAY_INCLUDE = {
  base = {}, graph = { "base" }, vec = { "base", "graph" }, jit = { "base" }, run = { "base", "graph", "jit" },
  store = { "base" }, torch = { "base", "graph" },
  bind = { "base", "graph", "vec", "jit", "run", "store", "torch" },
}
-- Headers with exactly one user.
local SOLE = { ["libtcc.h"] = "src/jit/tcc.c", ["lmdb.h"] = "src/store/lmdb.c", ["pthreadpool.h"] = "src/run/pool.c" }

-- These fork, and their children may end themselves.
local IN_CHILD = { ["src/run/guard.c"] = true, ["src/store/health.c"] = true }

local function allowed(list, folder)
  for _, f in ipairs(list) do if f == folder then return true end end
end

local function check_include(path, n, header, folder)
  if SOLE[header] and SOLE[header] ~= path then report(path, n, "only %s includes <%s>", SOLE[header], header) end
  local target = header:match("^(%l+)/")
  if not target or not MAY_INCLUDE[target] or not folder then return end
  if target ~= folder and not allowed(MAY_INCLUDE[folder], target) then
    report(path, n, "%s/ must not include %s (it may: %s)", folder, header, table.concat(MAY_INCLUDE[folder], " "))
  end
  local judge = path:match("^src/run/oracle") or path:match("^src/run/compare")
  if judge and not (target == "base" or target == "graph" or header:match("^run/oracle")) then
    report(path, n, "the oracle shares no code with what it judges: %s", header)
  end
end

for _, path in ipairs(files "-name '*.[ch]' -o -name '*.cpp' -o -name '*.def'") do
  local folder = path:match("^src/(%l+)/")
  local list = lines_of(path)
  if path:match("%.cpp$") and path ~= "src/torch/shim.cpp" then report(path, 1, "the only C++ file is src/torch/shim.cpp") end
  if #list > 700 then report(path, #list, "%d lines, at most 700: split by idea", #list) end
  for n, line in ipairs(list) do
    local header = line:match('^%s*#%s*include%s*["<]([^">]+)[">]')
    if header then check_include(path, n, header, folder) end
    if #line > 140 and not path:match("%.def$") and not path:match("^spec/") then report(path, n, "line of %d columns", #line) end
    if line:match("%s$") then report(path, n, "trailing space") end
    for _, word in ipairs { "abort", "exit", "printf", "puts", "signal" } do
      local called = line:match("%f[%w_]" .. word .. "%s*%(") and not line:match("^%s*/?%*")
      if folder and called and not IN_CHILD[path] then report(path, n, "the library does not call %s", word) end
    end
    if folder and folder ~= "base" and line:match("%f[%w_][cm]alloc%s*%(") then report(path, n, "memory comes from base/memory.h") end
  end
end

local LUA_MAY = {
  kernels = { "esper.vecmath", "esper.vecnode", "esper.emit", "kernels" },
  passes = { "esper.graph", "esper.dims", "esper.native", "esper.passes", "esper.facts", "esper.attributes", "esper.views",
    "esper.group" },
}
for _, path in ipairs(files "-name '*.lua'") do
  local list = lines_of(path)
  if #list > 450 and not path:match("^spec/") then report(path, #list, "%d lines, at most 450: split by idea", #list) end
  local group = path:match("^(kernels)/") or path:match("^lua/esper/(passes)/")
  for n, line in ipairs(list) do
    if #line > 140 and not path:match("^spec/") then report(path, n, "line of %d columns", #line) end
    if line:match("%s$") then report(path, n, "trailing space") end
    local module = line:match 'require%s*%(?%s*"([^"]+)"'
    if module == "ffi" and path ~= "lua/esper/native.lua" and not path:match("^spec/") then
      report(path, n, "only lua/esper/native.lua uses ffi")
    end
    if module and group then
      local ok
      for _, prefix in ipairs(LUA_MAY[group]) do ok = ok or module:sub(1, #prefix) == prefix end
      if not ok then report(path, n, "%s must not require %s", group, module) end
    end
    local above = path:match("^lua/esper/cli/") or path:match("host%.lua$") or path:match("help%.lua$") or path:match("demo%.lua$")
    if module and path:match("^lua/") and not above and module:match("^esper%.cli") then
      report(path, n, "nothing below the command requires %s", module)
    end
  end
end

-- Every op has its shape rule and a lowering. (That it has an oracle case and a libtorch spelling the linker checks: both
-- tables are filled from ops.def.)
local function all_text(pattern)
  local out = {}
  for _, path in ipairs(files(pattern)) do out[#out + 1] = table.concat(lines_of(path), "\n") end
  return table.concat(out, "\n")
end
local lowering = all_text "-name 'vec*.lua' -o -name facts.lua -o -name 'emit_*.lua' -o -name views.lua"
local shapes = all_text "-path 'src/graph/shape*.c'"
for n, line in ipairs(lines_of "src/graph/ops.def") do
  local name, class, rule = line:match("^OP%(([%w_]+),%s*(%w+),%s*%d+,%s*%d+,%s*([%w_]+)")
  if name then
    if not shapes:find("shape_" .. rule, 1, true) then report("src/graph/ops.def", n, "%s: no shape_%s", name, rule) end
    if class ~= "leaf" then
      if not lowering:find("%f[%w_]" .. name .. "%f[^%w_]") then report("src/graph/ops.def", n, "%s: no lowering", name) end
    end
  end
end

if findings > 0 then
  print(findings .. " findings")
  os.exit(1)
end
print("lint: clean")
