--- The interactive session behind `esper` and `esper repl`. Trusted: full Lua, in this process.
--
-- Reads a chunk (more lines while it is unfinished), runs it, prints what it returns. Errors are shown and the session
-- goes on; Ctrl-C stops a running loop; Ctrl-D ends. Changed pass, recipe and blueprint files are read again by reload().

local text = require "esper.text"

local M = {}

-- ---- what the session knows by name ----

local function environment()
  local esper = require "esper"
  local env = {
    esper = esper, compile = esper.compile, run = esper.run, blueprint = require("esper.blueprint").define,
    catalogue = esper.catalogue, tensor = require "esper.tensor", randn = esper.randn, load = esper.load,
    help = function(x) print(require("esper.help").about(x)) end, reload = M.reload,
    graph = esper.graph, dump = esper.dump,
  }
  return setmetatable(env, { __index = _G })
end

--- Forgets every loaded pass, recipe and blueprint module, so that the next use reads the files again.
function M.reload()
  local count = 0
  for name in pairs(package.loaded) do
    if name:match("^esper%.passes") or name:match("^kernels%.") or name:match("^esper%.ops") or name == "esper.compile"
      or name == "esper.group" or name == "esper.emit" or name == "esper.blueprint" then
      package.loaded[name] = nil
      count = count + 1
    end
  end
  return ("%d modules will be read again"):format(count)
end

-- ---- printing ----

local function show(v, depth)
  if type(v) == "string" then return depth > 0 and ("%q"):format(v) or text.printable(v) end
  if type(v) ~= "table" or (getmetatable(v) and getmetatable(v).__tostring) then return text.printable(tostring(v)) end
  if depth > 1 then return "{...}" end
  local parts, n = {}, 0
  for i, x in ipairs(v) do
    n = i
    if i <= 50 then parts[i] = show(x, depth + 1) end
  end
  if n > 50 then parts[51] = ("... %d more"):format(n - 50) end
  local names = {}
  for k in pairs(v) do if not (type(k) == "number" and k >= 1 and k <= n) then names[#names + 1] = k end end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(names) do parts[#parts + 1] = tostring(k) .. " = " .. show(v[k], depth + 1) end
  local line = "{ " .. table.concat(parts, ", ") .. " }"
  if #line <= 100 then return line end
  local pad = ("  "):rep(depth + 1)
  return "{\n" .. pad .. table.concat(parts, ",\n" .. pad) .. "\n" .. ("  "):rep(depth) .. "}"
end
M.show = function(v) return show(v, 0) end

-- ---- completion: fields of tables by path, file names inside quotes ----

local function fields(env, path, prefix)
  local at = env
  for name in path:gmatch("([%a_][%w_]*)[.:]") do
    if type(at) ~= "table" then return {} end
    at = at[name]
  end
  local found, seen = {}, {}
  local function scan(t)
    if type(t) ~= "table" then return end
    for k in pairs(t) do
      if type(k) == "string" and k:sub(1, #prefix) == prefix and not seen[k] then
        seen[k] = true
        found[#found + 1] = path .. k
      end
    end
    local mt = getmetatable(t)
    if mt and mt.__index then scan(mt.__index) end
  end
  scan(at)
  table.sort(found)
  return found
end

local function names_in_quotes(word)
  local found = {}
  for _, name in ipairs(require("esper").catalogue()) do
    if name:sub(1, #word) == word then found[#found + 1] = name end
  end
  local pipe = io.popen and word:match("^[%w_./%-]*$") and io.popen("ls -dp -- " .. word .. "* 2>/dev/null")
  if pipe then
    for line in pipe:lines() do found[#found + 1] = line end
    pipe:close()
  end
  return found
end

function M.candidates(env, word, line, start)
  local quotes = 0
  for _ in line:sub(1, start):gmatch("[\"']") do quotes = quotes + 1 end
  if quotes % 2 == 1 then return names_in_quotes(word) end
  local path, prefix = word:match("^(.-[.:]?)([%w_]*)$")
  return fields(env, path, prefix)
end

-- ---- the loop ----

-- A chunk that is an expression is returned; unfinished text gives nil, "more". Chunks are interpreted, so that Ctrl-C, which
-- acts through a hook, stops their loops: LuaJIT's compiled code runs no hooks.
local function compile(code, env)
  local chunk = loadstring("return " .. code, "=input") or nil
  local why
  if not chunk then chunk, why = loadstring(code, "=input") end
  if chunk then
    jit.off(chunk, true)
    return setfenv(chunk, env)
  end
  if why:find("near '<eof>'", 1, true) then return nil, "more" end
  return nil, why
end
M.compile = compile

local function read_chunk(line, env)
  local code = nil
  while true do
    local more = line.read(code and "    ..> " or "esper> ")
    if not more then return nil end
    code = code and code .. "\n" .. more or more
    if code:match("^%s*$") then return "", nil end
    local chunk, why = compile((code:gsub("^%s*=", "return ")), env)
    if chunk or why ~= "more" then return code, chunk, why end
  end
end

local function problem(e)
  e = text.printable(tostring(e)):gsub("^input:", "line ")
  return e
end

-- What a chunk gave; an expected failure (nil, message, status) reads as one line.
local function print_results(ok, ...)
  local first, why, status = ...
  if not ok then
    print("error: " .. problem(first))
  elseif first == nil and type(why) == "string" and select("#", ...) == 3 and tostring(status):find "^E%u+$" then
    print(("error: %s (%s)"):format(problem(why), status))
  else
    for i = 1, select("#", ...) do print(show((select(i, ...)), 0)) end
  end
end

function M.run(rearm)
  local line, env = require "esper_line", environment()
  if line.terminal then
    print(("esper %s   help() explains, Ctrl-D ends"):format(require "esper.version"))
    local home = os.getenv("HOME")
    if home then line.history(home .. "/.esper_history") end
    line.complete(function(word, whole, start) return M.candidates(env, word, whole, start) end)
  end
  while true do
    if rearm then rearm() end
    local ok, code, chunk, why = pcall(read_chunk, line, env)
    if not ok then
      print("(interrupted)")
    elseif code == nil then
      break
    elseif code ~= "" then
      line.add((code:gsub("\n", " ")))
      if not chunk then
        print("error: " .. problem(why))
      else
        print_results(pcall(chunk))
      end
    end
  end
  if line.terminal then print() end
  return true
end

return M
