-- What Esper costs a host that links it: bytes on disk, and what starting the command loads.
local process = require "support.process"

local LIMIT = 2 * 1000 * 1000

describe("size #process", function()
  it("libesper.so and esper together stay under 2 MB stripped", function()
    local directory = process.directory()
    local total = 0
    for _, name in ipairs { "libesper.so", "esper" } do
      process.must(("strip -o %s/%s %s/%s"):format(directory, name, process.build, name))
      local bytes = tonumber(process.must(("stat -c %%s %s/%s"):format(directory, name)))
      assert.is_true(bytes > 10000)
      total = total + bytes
    end
    process.remove(directory)
    print(("size %d bytes stripped"):format(total))
    assert.is_true(total < LIMIT, total)
  end)

  it("`esper help` loads neither libtorch nor its shim", function()
    local log = process.must(("LD_DEBUG=files %s/esper help"):format(process.build))
    assert.is_truthy(log:find("libesper.so", 1, true), "the log lists what is loaded")
    assert.is_nil(log:find("calling init: [^\n]*torch"))
    assert.is_nil(log:find("file=[^\n]*torch[^\n]*generating link map"))
  end)

  it("`esper help` opens no store", function()
    local directory = process.directory()
    process.must(("ESPER_STORE=%s/store %s/esper help"):format(directory, process.build))
    assert.equal("", process.must("ls " .. directory))
    process.remove(directory)
  end)
end)
