--- Reader of the C text of step functions (emit.lua), for the range proof: text to trees. Shares nothing with the emitter.
--
--   c_text.functions(unit) -> { [name] = body text }      body: from { to }
--   c_text.parse(body) -> statement | nil, message
-- Trees are arrays with the kind first:
--   { "num", n } { "name", text } { "un", op, x } { "bin", op, x, y } { "cond", c, x, y } { "cast", type, x } { "index", x, i }
--   { "field", x, name } { "call", name, args } { "set", op, place, x } { "step", op, place }
--   { "block", statements } { "declare", { { type=, name=, count=, value= }, ... } } { "if", c, a, b } { "for", init, c, step, body }
--   { "do", expression } { "break" } { "continue" }
-- A type is "long" "float" ..., with one * for a pointer. Whatever is not known here is a message, never passed over.

require("jit").off(true, true) -- see poly.lua
local M = {}

local TYPES = { char = true, long = true, int = true, unsigned = true, float = true, double = true, const = true }
local BINARY = { -- by precedence, loosest first
  { ["||"] = true }, { ["&&"] = true }, { ["|"] = true }, { ["^"] = true }, { ["&"] = true }, { ["=="] = true, ["!="] = true },
  { ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }, { ["<<"] = true, [">>"] = true }, { ["+"] = true, ["-"] = true },
  { ["*"] = true, ["/"] = true, ["%"] = true },
}
local ASSIGN = { ["="] = true, ["+="] = true, ["-="] = true, ["*="] = true, ["/="] = true, ["|="] = true, ["&="] = true,
  ["^="] = true, ["<<="] = true, [">>="] = true }

local PAIRS = { ["++"] = true, ["--"] = true, ["->"] = true, ["<<"] = true, [">>"] = true, ["<="] = true, [">="] = true,
  ["=="] = true, ["!="] = true, ["&&"] = true, ["||"] = true }

function M.functions(unit)
  local out = {}
  for name, body in unit:gmatch("\nvoid (es_k%d+)%(const args %*a, long lo, long hi%)\n(%b{})\n") do out[name] = body end
  return out
end

local function tokens(text)
  local list, at, n, find, sub = {}, 1, #text, string.find, string.sub
  while true do
    at = find(text, "%S", at)
    if not at or at > n then break end
    local _, last = find(text, "^[%a_][%w_]*", at)
    if not last then _, last = find(text, "^0[xX]%x+[uUlL]*", at) end
    if not last then _, last = find(text, "^%d+%.?%d*[eE][%+%-]?%d+f?", at) end
    if not last then _, last = find(text, "^%d+%.?%d*[uUlLf]*", at) end
    if not last then
      local three, two = sub(text, at, at + 2), sub(text, at, at + 1)
      if three == "<<=" or three == ">>=" then last = at + 2
      elseif two == "//" then error("a comment in a function", 0)
      elseif ASSIGN[two] or PAIRS[two] then last = at + 1
      else last = at end
    end
    list[#list + 1] = sub(text, at, last)
    at = last + 1
  end
  return list
end

local Parser = {}
Parser.__index = Parser

local function fail(p, what) error(("C text: %s near '%s'"):format(what, table.concat(p.list, " ", math.max(1, p.at - 6),
  math.min(#p.list, p.at + 3))), 0) end

function Parser:peek() return self.list[self.at] end
function Parser:take(token)
  if self.list[self.at] ~= token then return false end
  self.at = self.at + 1
  return true
end
function Parser:want(token) if not self:take(token) then fail(self, "want " .. token) end end

function Parser:word()
  local token = self:peek()
  if not token or not token:find "^[%a_]" then fail(self, "want a name") end
  self.at = self.at + 1
  return token
end

-- A type without its declarators' stars: "unsigned long"; const is dropped.
function Parser:base_type()
  local words = {}
  while TYPES[self:peek()] do
    local word = self:word()
    if word ~= "const" then words[#words + 1] = word end
  end
  if #words == 0 then fail(self, "want a type") end
  return table.concat(words, " ")
end

function Parser:stars()
  local text = ""
  while self:peek() == "*" or self:peek() == "const" do
    if self:word_or_star() == "*" then text = text .. "*" end
  end
  return text
end

function Parser:word_or_star()
  self.at = self.at + 1
  return self.list[self.at - 1]
end

local function number(p, token)
  local digits = token:gsub("[uUlL]+$", "")
  if digits:find "^0[xX]" then return { "num", tonumber(digits) } end
  if token:find "[%.eEf]" then return { "real" } end
  local n = tonumber(digits)
  if not n or n > 2 ^ 53 then return { "real" } end -- no value that the proof can use
  return { "num", n }
end

function Parser:primary()
  local token = self:peek()
  if not token then fail(self, "want an expression") end
  if token == "(" then
    self.at = self.at + 1
    local inner = self:expression()
    self:want ")"
    return inner
  end
  self.at = self.at + 1
  if token:find "^%d" then return number(self, token) end
  if not token:find "^[%a_]" then
    self.at = self.at - 1
    fail(self, "want an expression")
  end
  if self:take "(" then
    local args = {}
    while not self:take ")" do
      args[#args + 1] = self:expression()
      self:take ","
    end
    return { "call", token, args }
  end
  return { "name", token }
end

function Parser:postfix()
  local x = self:primary()
  while true do
    if self:take "[" then
      x = { "index", x, self:expression() }
      self:want "]"
    elseif self:take "->" then x = { "field", x, self:word() }
    elseif self:take "++" then x = { "step", "+", x }
    elseif self:take "--" then x = { "step", "-", x }
    else return x end
  end
end

function Parser:unary()
  local token = self:peek()
  if token == "(" and TYPES[self.list[self.at + 1]] then
    self.at = self.at + 1
    local type = self:base_type() .. self:stars()
    self:want ")"
    return { "cast", type, self:unary() }
  end
  if token == "-" or token == "!" or token == "*" or token == "&" or token == "~" then
    self.at = self.at + 1
    return { "un", token, self:unary() }
  end
  return self:postfix()
end

function Parser:binary(level)
  local ops = BINARY[level]
  if not ops then return self:unary() end
  local x = self:binary(level + 1)
  while ops[self:peek()] do
    local op = self:word_or_star()
    x = { "bin", op, x, self:binary(level + 1) }
  end
  return x
end

function Parser:expression()
  local x = self:binary(1)
  if self:take "?" then
    local yes = self:expression()
    self:want ":"
    return { "cond", x, yes, self:expression() }
  end
  if ASSIGN[self:peek()] then
    local op = self:word_or_star()
    return { "set", op, x, self:expression() }
  end
  return x
end

function Parser:declaration()
  local base, list = self:base_type(), {}
  repeat
    local one = { type = base .. self:stars() }
    one.name = self:word()
    if self:take "[" then
      one.count = self:expression()
      self:want "]"
    end
    if self:take "=" then one.value = self:expression() end
    list[#list + 1] = one
  until not self:take ","
  return { "declare", list }
end

-- An expression, several separated by commas, or a declaration: what may stand in the head of a for.
function Parser:simple()
  if TYPES[self:peek()] then return self:declaration() end
  local list = {}
  repeat list[#list + 1] = { "do", self:expression() } until not self:take ","
  return #list == 1 and list[1] or { "block", list }
end

function Parser:loop()
  self:want "("
  local init = self:peek() ~= ";" and self:simple() or nil
  self:want ";"
  local c = self:expression()
  self:want ";"
  local step = self:peek() ~= ")" and self:simple() or nil
  self:want ")"
  return { "for", init or { "block", {} }, c, step or { "block", {} }, self:statement() }
end

function Parser:statement()
  if self:take "{" then
    local list = {}
    while not self:take "}" do list[#list + 1] = self:statement() end
    return { "block", list }
  elseif self:take ";" then return { "block", {} }
  elseif self:take "for" then return self:loop()
  elseif self:take "while" then
    self:want "("
    local c = self:expression()
    self:want ")"
    return { "for", { "block", {} }, c, { "block", {} }, self:statement() }
  elseif self:take "if" then
    self:want "("
    local c = self:expression()
    self:want ")"
    local yes = self:statement()
    return { "if", c, yes, self:take "else" and self:statement() or { "block", {} } }
  elseif self:peek() == "break" or self:peek() == "continue" then
    local kind = self:word()
    self:want ";"
    return { kind }
  end
  local simple = self:simple()
  self:want ";"
  return simple
end

function M.parse(body)
  local ok, result = pcall(function()
    local p = setmetatable({ list = tokens(body), at = 1 }, Parser)
    local tree = p:statement()
    if p:peek() then fail(p, "text behind the body") end
    return tree
  end)
  if ok then return result end
  return nil, result
end

--- A dimension's text ("(batch*tokens + 47)//48") as an expression; // is the operator "/" there, rounding down.
function M.dimension(text)
  local p = setmetatable({ list = tokens((text:gsub("//", "/"))), at = 1 }, Parser)
  local tree = p:expression()
  if p:peek() then fail(p, "text behind the dimension") end
  return tree
end

return M
