-- ANALYZE keeps values of a column in pg_statistic: of keys, and of the salt, it would be the values themselves. Superusers read
-- it, and so do dumps of statistics. Setting the type, to the one that it is, throws away what was kept before.

SET LOCAL ROLE fence_owner;
ALTER TABLE fence.context_keys
    ALTER COLUMN ipad TYPE bytea, ALTER COLUMN opad TYPE bytea;
ALTER TABLE fence.context_keys
    ALTER COLUMN ipad SET STATISTICS 0, ALTER COLUMN opad SET STATISTICS 0;
ALTER TABLE fence.settings ALTER COLUMN value TYPE bytea;
ALTER TABLE fence.settings ALTER COLUMN value SET STATISTICS 0;
RESET ROLE;
