-- A statement may call setseed(), which no rollback undoes: whoever called next on the same connection had random() from a
-- seed that somebody else chose. The ticket, which ends each call, seeds anew.

SET LOCAL ROLE fence_owner;
CREATE OR REPLACE FUNCTION fence.ticket(OUT ticket bigint, OUT pid integer, OUT epoch bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $fn$
BEGIN
    PERFORM pg_advisory_unlock_all();
    -- drawn from the server's strong random source; the divisor brings 32 bits between -1 and 1
    PERFORM setseed(('x' || left(gen_random_uuid()::text, 8))::bit(32)::integer / 2147483648.0::float8);
    ticket := nextval('fence.ticket_seq');
    pid := pg_backend_pid();
    epoch := floor(extract(epoch FROM clock_timestamp()));
END $fn$;
RESET ROLE;
