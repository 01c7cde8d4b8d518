--- The rewriting of graphs: a new graph from an old one, node by node. Used by every pass as ctx:rebuild.
--
--   ctx:rebuild(src, rule) -> graph, changed      rule(b, id) -> new id, or nil for a plain copy; rule may be nil
--                       (new id, true): the rule copied the node itself and changed nothing
-- ctx:rebuild(src, rule, settle)   settle(b, roots) -> changed may set `new` of each root once all nodes are there
-- Live nodes (reached from a root, and all inputs) are visited in order. In a rule:
--   b.src b.graph       old and new graph, over one dims table
--   b:map(old)          the new id that stands for an old node
--   b:input(id, k)      b:map of input k of old node id
--   b:add{ op=, inputs=, attrs=, dtype= } -> new id, at the source line of the node being replaced
--   b:copy(id)          the plain copy
--   b:sole(new)         true when one reader at most is known to use this new node; rules that would otherwise compute
--                       something twice ask for it
-- Invariant: the new graph has the same inputs, roots and root names. When no rule fired and every node was live, `src`
-- itself is returned: passes that find nothing cost one look at each node.
local graphs = require "esper.graph"
local native = require "esper.native"
local M = {}

local Builder = {}
Builder.__index = Builder

local function fail(message, status) error({ message = message, status = status }, 0) end

function Builder:map(old) return self.to[old] end
function Builder:input(id, k) return self.to[self.src:node(id)["in"][k - 1]] end

-- Does old node id read the value `new` stands for?
function Builder:reads(id, new)
  local node = self.src:node(id)
  for k = 0, node.nin - 1 do
    if self.to[node["in"][k]] == new then return true end
  end
  return false
end

--- Is `new` read by one node only? Created nodes are, until a second old node maps to them.
function Builder:sole(new) return self.alone[new] ~= false end

function Builder:add(spec)
  spec.line = self.line
  local id, message, status = self.graph:add(spec)
  if not id then fail(message, status) end
  return id
end

function Builder:copy(id)
  local new, message, status = self.graph:copy(self.src, id, self.to)
  if not new then fail(message, status) end
  return new
end

-- Which nodes are computed for a root, and how many readers each has (a root counts as one).
local function survey(src)
  local count = src:count()
  local uses, live = {}, {}
  for id = 0, count - 1 do
    uses[id], live[id] = 0, src:op(id) == "input"
  end
  local roots = src:roots()
  for _, root in ipairs(roots) do
    live[root.node], uses[root.node] = true, uses[root.node] + 1
  end
  local dead = 0
  for id = count - 1, 0, -1 do
    if live[id] then
      local node = src:node(id)
      for k = 0, node.nin - 1 do
        local input = node["in"][k]
        live[input], uses[input] = true, uses[input] + 1
      end
    else
      dead = dead + 1
    end
  end
  return count, live, uses, roots, dead
end

function M.run(_, src, rule, settle)
  local count, live, uses, roots, dead = survey(src)
  if not rule and not settle and dead == 0 then return src, 0 end
  local graph, message, status = graphs.new(src:name(), src:dims())
  if not graph then fail(message, status) end
  local b = setmetatable({ src = src, graph = graph, to = native.new("es_id[?]", count), alone = {} }, Builder)
  for id = 0, count - 1 do b.to[id] = -1 end
  local changed = 0
  for id = 0, count - 1 do
    if live[id] then
      b.line = src:node(id).line
      local new, plain
      if rule then new, plain = rule(b, id) end
      if new and not plain then changed = changed + 1 end
      new = new or b:copy(id)
      b.alone[new] = uses[id] <= 1 and (b.alone[new] == nil or (b.alone[new] and b:reads(id, new)))
      b.to[id] = new
    end
  end
  for _, root in ipairs(roots) do root.new = b.to[root.node] end
  if settle then changed = changed + settle(b, roots) end
  if changed == 0 and dead == 0 then return src, 0 end
  for _, root in ipairs(roots) do
    local ok, why, code = graph:root(root.kind, root.name, root.new)
    if not ok then fail(why, code) end
  end
  return graph, changed + dead
end

return M
