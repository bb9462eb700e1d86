-- The health of a MultiArchImage in Argo CD. Its conditions are those of kstatus: Reconciling is True while it is at
-- work or waits, Stalled is True when somebody has to act, Ready is True when the spec is published.
-- A sync goes on after Healthy only, so an image that is published is Healthy, suspended or not.
-- It needs none of Lua's libraries, so resource.customizations.useOpenLibs can stay off.
local status = obj.status or {}
if status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not seen this generation yet"}
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

local function is_true(condition)
  return condition ~= nil and condition.status == "True"
end

local ready = conditions.Ready
if is_true(conditions.Stalled) then
  return {status = "Degraded", message = conditions.Stalled.message}
end
if is_true(ready) and not is_true(conditions.Reconciling) then
  return {status = "Healthy", message = ready.message}
end
if obj.spec ~= nil and obj.spec.suspend == true then
  return {status = "Suspended", message = "spec.suspend is true, and what the spec asks for is not published"}
end
return {status = "Progressing", message = ready ~= nil and ready.message or "nothing has been decided yet"}
