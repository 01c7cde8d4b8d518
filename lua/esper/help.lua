--- Explanations of ops, inits, words, commands and modules, from the tables and doc strings they are defined by.

local M = {}

local function attribute(a)
  local kinds = { i = "integer", ["2"] = "two integers", b = "0/1", s = "axis", m = "axes", p = "permutation", t = "dtype",
    f = "number", d = "dimension", D = "shape" }
  local default = a.default
  if type(default) == "table" then default = table.concat(default, ",") end
  return ("%s (%s%s)"):format(a.name, kinds[a.type], default ~= nil and ", default " .. tostring(default) or "")
end

local function op(name)
  local info = require("esper.native").opinfo[name]
  if not info then return nil end
  local inputs = info.min == info.max and ("%d input%s"):format(info.min, info.min == 1 and "" or "s")
    or ("%d to %d inputs"):format(info.min, info.max)
  local lines = { ("op %s, %s, %s"):format(name, info.class, inputs), "  " .. info.doc }
  for _, a in ipairs(info.attrs) do lines[#lines + 1] = "  " .. attribute(a) end
  return table.concat(lines, "\n")
end

--- Words and their meaning from docs/words.md, in order: { { word, meaning }, ... }.
function M.words()
  local out, source = {}, require("esper.native").source("docs/words.md") or ""
  for line in source:gmatch("[^\n]+") do
    if line:sub(1, 2) == "- " then
      for word in line:gmatch("%*%*([%w ]+)%*%*") do
        out[#out + 1] = { word, (line:gsub("%*%*", ""):gsub("^%- ", "")) }
      end
    end
  end
  return out
end

local function word(name)
  for _, row in ipairs(M.words()) do if row[1] == name then return row[2] end end
end

-- The comment block on top of a Lua module: its documentation.
local function module(name)
  local native = require "esper.native"
  for _, path in ipairs { "lua/esper/" .. name .. ".lua", "lua/esper/" .. name .. "/init.lua", "lua/esper/cli/" .. name .. ".lua",
      "kernels/" .. name .. ".lua" } do
    local source = native.source(path)
    local lines = {}
    for line in (source or ""):gmatch("([^\n]*)\n") do
      if line:sub(1, 2) ~= "--" then break end
      lines[#lines + 1] = (line:gsub("^%-%-%-? ?", ""))
    end
    local doc = #lines > 0 and table.concat(lines, "\n")
    if doc then return path .. "\n" .. doc end
  end
end

local function init(name)
  local native = require "esper.native"
  if native.init[name] then return ("init %s: see docs/blueprints.md, \"Inits\""):format(name) end
end

local function everything()
  local native, text = require "esper.native", require "esper.text"
  local words = {}
  for i, row in ipairs(M.words()) do words[i] = row[1] end
  return table.concat({ require("esper.cli").overview(), "", "ops:   " .. table.concat(text.keys(native.op), " "),
    "inits: " .. table.concat(text.keys(native.init), " "), "words: " .. table.concat(words, ", ") }, "\n")
end

--- Text about a name (op, word, init, module), or about a value; nil asks for the overview.
function M.about(x)
  if x == nil then return everything() end
  if type(x) == "string" then
    local found = op(x) or word(x) or init(x) or module(x)
    if found then return found end
    local native, text = require "esper.native", require "esper.text"
    local names = text.keys(native.op)
    for _, row in ipairs(M.words()) do names[#names + 1] = row[1] end
    local near = text.nearest(x, names)
    return nil, ("nothing is known as '%s'%s"):format(x, near and "; did you mean " .. near .. "?" or "; help() lists what is")
  end
  if type(x) == "function" then
    local where = debug.getinfo(x, "S")
    local name = where.source:match("lua/esper/([%w_/]+)%.lua$")
    local doc = name and M.doc(where.source:gsub("^@", ""), where.linedefined)
    return doc or (name and module(name)) or "a function defined at " .. where.short_src .. ":" .. where.linedefined
  end
  return tostring(x)
end

--- The `---` comment right above a line of a script.
function M.doc(path, line)
  local source = require("esper.native").source((path:gsub("^.-(lua/esper/)", "%1")))
  if not source then return nil end
  local lines, found = {}, {}
  for l in (source .. "\n"):gmatch("([^\n]*)\n") do lines[#lines + 1] = l end
  for i = line - 1, 1, -1 do
    if not lines[i]:match("^%-%-") then break end
    table.insert(found, 1, (lines[i]:gsub("^%-%-%-? ?", "")))
  end
  if #found == 0 then return nil end
  return lines[line]:gsub("^local ", "") .. "\n  " .. table.concat(found, "\n  ")
end

return M
