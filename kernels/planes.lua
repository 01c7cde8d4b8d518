--- Results that come as a block of neighbouring planes, lines and columns of [N, C, H, W]: where the raw ones are written,
-- and the epilogue over them in the longest runs there are. Used by convolution and pooling.

local M = {}

--- The output of the group that can hold raw results until the epilogue has passed over them, or nil: a stack buffer is
-- needed.
function M.target(k)
  local dtype = k.graph:dtype(k.group.anchor)
  if k.stored then return k.group.anchor end
  for _, id in ipairs(k.group.outputs) do
    if k.graph:dtype(id) == dtype then return id end
  end
end

--- C: the epilogue over a block whose first element is `start` of the output. o: target, or raw = char * expression and
-- raw_plane = elements from plane to plane there (lines follow each other); start, planes, lines, columns = C names; width,
-- plane = dims of the output.
function M.finish(k, o)
  local id = k.group.anchor
  if #k.group.epilogue == 0 and k.stored and o.target == id then return end
  local bytes, plane, width = k:bytes(k.graph:dtype(id)), k:dim(o.plane), k:dim(o.width)
  local runs, length, planes = k:name("runs"), k:name("length"), k:name("planes")
  local i, j, first = k:name("i"), k:name("j"), k:name("first")
  k:line("long %s = %s == %s ? 1 : %s, %s = %s;", runs, o.columns, width, o.lines, planes, o.planes)
  k:line("long %s = %s == 1 ? %s * %s : %s;", length, runs, o.lines, o.columns, o.columns)
  if o.target then k:line("if (%s == %s) { %s *= %s; %s = 1; }", length, plane, length, planes, planes) end
  k:open("for (long %s = 0; %s < %s; %s++)", j, j, planes, j)
  k:open("for (long %s = 0; %s < %s; %s++)", i, i, runs, i)
  k:line("long %s = %s + %s * %s + %s * %s;", first, o.start, j, plane, i, width)
  local from
  if not o.target then
    from = ("%s + (%s * %s + %s * %s) * %dL"):format(o.raw, j, o.raw_plane, i, o.columns, bytes)
  elseif o.target ~= id or not k.stored then
    from = ("%s + %s * %dL"):format(k:write(o.target), first, bytes)
  end
  k:epilogue { start = first, n = length, from = from }
  k:close()
  k:close()
end

return M
