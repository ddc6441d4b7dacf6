-- One policy per table for all tenants: policies of their own for 5,000 tenants cost 37 s to create and five times the
-- planning of each connection's first query. The sub-select makes it an InitPlan: evaluated once per query, usable by an index.
-- fence_reader gets SELECT and nothing else: TRUNCATE and REFERENCES ignore row-level security.
-- retail_loader writes all rows; it does not own the tables, so FORCE holds for the owner too.

SET LOCAL ROLE retail_owner;
DO $do$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT * FROM (VALUES
            ('tenants',                        'tenant_key = (SELECT fence.tenant_key())'),
            ('categories',                     'tenant_key = (SELECT fence.tenant_key())'),
            ('product_types',                  'tenant_key = (SELECT fence.tenant_key())'),
            ('products',                       'tenant_key = (SELECT fence.tenant_key())'),
            ('product_description_embeddings', 'tenant_key = (SELECT fence.tenant_key())'),
            ('stores',                         'store_id = ANY ((SELECT fence.visible_stores())::uuid[])'),
            ('customers',                      'primary_store_id = ANY ((SELECT fence.visible_stores())::uuid[])'),
            ('orders',                         'store_id = ANY ((SELECT fence.visible_stores())::uuid[])'),
            ('order_items',                    'store_id = ANY ((SELECT fence.visible_stores())::uuid[])'),
            ('inventory',                      'store_id = ANY ((SELECT fence.visible_stores())::uuid[])')
        ) v (relation, condition)
    LOOP
        EXECUTE format('ALTER TABLE retail.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', item.relation);
        EXECUTE format('CREATE POLICY fence_read ON retail.%I FOR SELECT TO fence_reader USING (%s)', item.relation, item.condition);
        EXECUTE format('CREATE POLICY loader_all ON retail.%I FOR ALL TO retail_loader USING (true) WITH CHECK (true)', item.relation);
        EXECUTE format('GRANT SELECT ON retail.%I TO fence_reader', item.relation);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON retail.%I TO retail_loader', item.relation);
    END LOOP;
END $do$;
RESET ROLE;
