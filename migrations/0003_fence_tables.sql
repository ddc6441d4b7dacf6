-- What the fence knows: whose login it is, which stores the tenant has, which keys sign for it.
-- No role but the owner has a privilege on any of these.

SET LOCAL ROLE retail_owner;
GRANT REFERENCES (tenant_key, tenant_id) ON retail.tenants TO fence_owner;
RESET ROLE;
SET LOCAL ROLE fence_owner;

CREATE TABLE fence.settings (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);
COMMENT ON TABLE fence.settings IS 'Values fixed when the fence was made.';
COMMENT ON COLUMN fence.settings.name IS 'role_salt: what makes login names opaque, since pg_roles is readable by every tenant.';
COMMENT ON COLUMN fence.settings.value IS 'The value.';
-- gen_random_uuid() draws from the server's strong random source; core PostgreSQL has no gen_random_bytes().
INSERT INTO fence.settings VALUES ('role_salt', sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

CREATE TABLE fence.tenants (
    tenant_key integer PRIMARY KEY,
    tenant_id  text NOT NULL UNIQUE,
    owner_uid  text NOT NULL,
    enabled    boolean NOT NULL DEFAULT true,
    -- the name is kept here too, so that the policies' functions never have to read schema retail
    FOREIGN KEY (tenant_key, tenant_id) REFERENCES retail.tenants (tenant_key, tenant_id)
);
COMMENT ON TABLE fence.tenants IS 'Tenants that a RetailTenant object stands for.';
COMMENT ON COLUMN fence.tenants.tenant_key IS 'Number of the tenant, as in retail.tenants.';
COMMENT ON COLUMN fence.tenants.tenant_id IS 'Name of the tenant, as in retail.tenants; a signed context must carry it.';
COMMENT ON COLUMN fence.tenants.owner_uid IS 'UID of the RetailTenant object.';
COMMENT ON COLUMN fence.tenants.enabled IS 'False: every call of the tenant is refused.';

CREATE TABLE fence.tenant_stores (
    store_id   uuid PRIMARY KEY,
    tenant_key integer NOT NULL REFERENCES fence.tenants ON DELETE CASCADE,
    store_name text NOT NULL,
    UNIQUE (tenant_key, store_name)
);
CREATE INDEX tenant_stores_tenant_idx ON fence.tenant_stores (tenant_key, store_id);
COMMENT ON TABLE fence.tenant_stores IS 'Stores of each tenant. A signed context can name no store outside of them.';
COMMENT ON COLUMN fence.tenant_stores.store_id IS 'The store; it belongs to one tenant only.';
COMMENT ON COLUMN fence.tenant_stores.tenant_key IS 'Tenant of the store.';
COMMENT ON COLUMN fence.tenant_stores.store_name IS 'Name of the store, unique within the tenant.';

CREATE TABLE fence.logins (
    login      name PRIMARY KEY,
    tenant_key integer NOT NULL REFERENCES fence.tenants ON DELETE CASCADE,
    slot       text NOT NULL CHECK (slot IN ('a', 'b')),
    UNIQUE (tenant_key, slot)
);
COMMENT ON TABLE fence.logins IS 'Which tenant a login role speaks for. The two slots let a password be changed without an outage.';
COMMENT ON COLUMN fence.logins.login IS 'Name of the role, compared with session_user.';
COMMENT ON COLUMN fence.logins.tenant_key IS 'Tenant of the login.';
COMMENT ON COLUMN fence.logins.slot IS 'a or b.';

CREATE TABLE fence.context_keys (
    tenant_key integer NOT NULL REFERENCES fence.tenants ON DELETE CASCADE,
    kid        integer NOT NULL CHECK (kid BETWEEN 1 AND 999999999),
    ipad       bytea NOT NULL CHECK (length(ipad) = 64),
    opad       bytea NOT NULL CHECK (length(opad) = 64),
    not_after  timestamptz,
    PRIMARY KEY (tenant_key, kid)
);
COMMENT ON TABLE fence.context_keys IS 'Keys that sign contexts, as the two HMAC pads; several at once while one replaces another.';
COMMENT ON COLUMN fence.context_keys.tenant_key IS 'Tenant that the key signs for.';
COMMENT ON COLUMN fence.context_keys.kid IS 'Key id, part of each context.';
COMMENT ON COLUMN fence.context_keys.ipad IS 'Key padded with zeros to 64 bytes, XOR 0x36 (RFC 2104).';
COMMENT ON COLUMN fence.context_keys.opad IS 'Key padded with zeros to 64 bytes, XOR 0x5c (RFC 2104).';
COMMENT ON COLUMN fence.context_keys.not_after IS 'End of validity; null: none.';

-- A session takes numbers in blocks, which no other session can get; a block costs one WAL record, so it is a large one.
CREATE SEQUENCE fence.ticket_seq AS bigint CACHE 1000;
COMMENT ON SEQUENCE fence.ticket_seq IS 'Numbers the calls: a signed context holds for one ticket of one backend.';
RESET ROLE;

-- The constraint is made; checking it later needs no privilege.
SET LOCAL ROLE retail_owner;
REVOKE REFERENCES (tenant_key, tenant_id) ON retail.tenants FROM fence_owner;
RESET ROLE;
