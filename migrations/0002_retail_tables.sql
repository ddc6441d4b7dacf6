-- The retail schema. Transactional rows carry their store, catalogue rows their tenant; indexes start with that column,
-- because an index that starts with a guessable value (an e-mail address) tells by timing whether a hidden row exists.
-- Points in time are timestamptz: a comparison of date with timestamptz is not leakproof and loses its index under RLS.
-- Comments are what the gateway's schema tool tells the model.

SET LOCAL ROLE retail_owner;

CREATE TABLE retail.tenants (
    tenant_key   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id    text NOT NULL UNIQUE CHECK (tenant_id ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'),
    display_name text NOT NULL,
    UNIQUE (tenant_key, tenant_id)
);
COMMENT ON TABLE retail.tenants IS 'Retail chains. A row is never removed: the chain''s data refers to it.';
COMMENT ON COLUMN retail.tenants.tenant_key IS 'Number of the chain in this database.';
COMMENT ON COLUMN retail.tenants.tenant_id IS 'Short name of the chain, as in RetailTenant spec.tenantId.';
COMMENT ON COLUMN retail.tenants.display_name IS 'Name of the chain for people.';

CREATE TABLE retail.stores (
    store_id     uuid PRIMARY KEY,
    tenant_key   integer NOT NULL REFERENCES retail.tenants,
    store_name   text NOT NULL,
    display_name text NOT NULL DEFAULT '',
    is_online    boolean NOT NULL DEFAULT false,
    UNIQUE (tenant_key, store_name)
);
COMMENT ON TABLE retail.stores IS 'Shops of a chain, its web shop included.';
COMMENT ON COLUMN retail.stores.store_id IS 'Identifier of the store; every transactional row carries it.';
COMMENT ON COLUMN retail.stores.tenant_key IS 'Chain that the store belongs to.';
COMMENT ON COLUMN retail.stores.store_name IS 'Short name of the store, unique within the chain, for example Seattle.';
COMMENT ON COLUMN retail.stores.display_name IS 'Name of the store for people.';
COMMENT ON COLUMN retail.stores.is_online IS 'True for the web shop.';

CREATE TABLE retail.categories (
    category_id   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_key    integer NOT NULL REFERENCES retail.tenants,
    category_name text NOT NULL,
    UNIQUE (tenant_key, category_id),
    UNIQUE (tenant_key, category_name)
);
COMMENT ON TABLE retail.categories IS 'Product categories of a chain.';
COMMENT ON COLUMN retail.categories.category_id IS 'Identifier of the category.';
COMMENT ON COLUMN retail.categories.tenant_key IS 'Chain that the category belongs to.';
COMMENT ON COLUMN retail.categories.category_name IS 'Name of the category, for example POWER TOOLS.';

CREATE TABLE retail.product_types (
    type_id     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_key  integer NOT NULL REFERENCES retail.tenants,
    category_id uuid NOT NULL,
    type_name   text NOT NULL,
    UNIQUE (tenant_key, type_id),
    UNIQUE (tenant_key, category_id, type_name),
    FOREIGN KEY (tenant_key, category_id) REFERENCES retail.categories (tenant_key, category_id)
);
COMMENT ON TABLE retail.product_types IS 'Product types: the level below a category.';
COMMENT ON COLUMN retail.product_types.type_id IS 'Identifier of the product type.';
COMMENT ON COLUMN retail.product_types.tenant_key IS 'Chain that the product type belongs to.';
COMMENT ON COLUMN retail.product_types.category_id IS 'Category of the product type.';
COMMENT ON COLUMN retail.product_types.type_name IS 'Name of the product type, for example DRILLS.';

CREATE TABLE retail.products (
    product_id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_key          integer NOT NULL REFERENCES retail.tenants,
    sku                 text NOT NULL,
    product_name        text NOT NULL,
    category_id         uuid NOT NULL,
    type_id             uuid NOT NULL,
    cost                numeric(10,2) NOT NULL CHECK (cost >= 0),
    base_price          numeric(10,2) NOT NULL CHECK (base_price >= 0),
    product_description text NOT NULL DEFAULT '',
    UNIQUE (tenant_key, product_id),
    UNIQUE (tenant_key, sku),
    FOREIGN KEY (tenant_key, category_id) REFERENCES retail.categories (tenant_key, category_id),
    FOREIGN KEY (tenant_key, type_id) REFERENCES retail.product_types (tenant_key, type_id)
);
CREATE INDEX products_tenant_category_idx ON retail.products (tenant_key, category_id);
CREATE INDEX products_tenant_type_idx ON retail.products (tenant_key, type_id);
COMMENT ON TABLE retail.products IS 'Catalogue of a chain: one row per article.';
COMMENT ON COLUMN retail.products.product_id IS 'Identifier of the product.';
COMMENT ON COLUMN retail.products.tenant_key IS 'Chain that sells the product.';
COMMENT ON COLUMN retail.products.sku IS 'Stock keeping unit, unique within the chain.';
COMMENT ON COLUMN retail.products.product_name IS 'Name of the product.';
COMMENT ON COLUMN retail.products.category_id IS 'Category of the product.';
COMMENT ON COLUMN retail.products.type_id IS 'Product type of the product.';
COMMENT ON COLUMN retail.products.cost IS 'What the chain pays for one unit, in the chain''s currency.';
COMMENT ON COLUMN retail.products.base_price IS 'List price of one unit before discounts, in the chain''s currency.';
COMMENT ON COLUMN retail.products.product_description IS 'Description of the product for customers; the semantic search reads it.';

CREATE TABLE retail.customers (
    customer_id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    primary_store_id uuid NOT NULL REFERENCES retail.stores,
    first_name       text NOT NULL,
    last_name        text NOT NULL,
    email            text NOT NULL,
    phone            text,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX customers_store_email_idx ON retail.customers (primary_store_id, email);
COMMENT ON TABLE retail.customers IS 'Customers, each with the store where the customer usually buys.';
COMMENT ON COLUMN retail.customers.customer_id IS 'Identifier of the customer.';
COMMENT ON COLUMN retail.customers.primary_store_id IS 'Store that the customer belongs to; decides who sees the row.';
COMMENT ON COLUMN retail.customers.first_name IS 'Given name.';
COMMENT ON COLUMN retail.customers.last_name IS 'Family name.';
COMMENT ON COLUMN retail.customers.email IS 'E-mail address.';
COMMENT ON COLUMN retail.customers.phone IS 'Telephone number, if known.';
COMMENT ON COLUMN retail.customers.created_at IS 'When the customer was first recorded.';

CREATE TABLE retail.orders (
    order_id    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    store_id    uuid NOT NULL REFERENCES retail.stores,
    customer_id uuid NOT NULL REFERENCES retail.customers,
    order_date  timestamptz NOT NULL,
    UNIQUE (store_id, order_id)
);
CREATE INDEX orders_store_date_idx ON retail.orders (store_id, order_date);
CREATE INDEX orders_store_customer_idx ON retail.orders (store_id, customer_id);
COMMENT ON TABLE retail.orders IS 'Sales orders: one row per purchase; the amounts are in order_items.';
COMMENT ON COLUMN retail.orders.order_id IS 'Identifier of the order.';
COMMENT ON COLUMN retail.orders.store_id IS 'Store that sold.';
COMMENT ON COLUMN retail.orders.customer_id IS 'Customer who bought.';
COMMENT ON COLUMN retail.orders.order_date IS 'When the order was placed.';

CREATE TABLE retail.order_items (
    order_item_id    uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    order_id         uuid NOT NULL,
    store_id         uuid NOT NULL,
    product_id       uuid NOT NULL REFERENCES retail.products,
    quantity         integer NOT NULL CHECK (quantity > 0),
    unit_price       numeric(10,2) NOT NULL CHECK (unit_price >= 0),
    discount_percent integer NOT NULL DEFAULT 0 CHECK (discount_percent BETWEEN 0 AND 100),
    discount_amount  numeric(10,2) NOT NULL DEFAULT 0 CHECK (discount_amount >= 0),
    total_amount     numeric(12,2) NOT NULL,
    -- an item cannot carry another store than its order
    FOREIGN KEY (store_id, order_id) REFERENCES retail.orders (store_id, order_id)
);
CREATE INDEX order_items_store_order_idx ON retail.order_items (store_id, order_id);
CREATE INDEX order_items_store_product_idx ON retail.order_items (store_id, product_id);
COMMENT ON TABLE retail.order_items IS 'Lines of the orders: product, quantity and amounts. Revenue is sum(total_amount).';
COMMENT ON COLUMN retail.order_items.order_item_id IS 'Identifier of the line.';
COMMENT ON COLUMN retail.order_items.order_id IS 'Order that the line belongs to.';
COMMENT ON COLUMN retail.order_items.store_id IS 'Store that sold; the same as the order''s.';
COMMENT ON COLUMN retail.order_items.product_id IS 'Product sold.';
COMMENT ON COLUMN retail.order_items.quantity IS 'Number of units.';
COMMENT ON COLUMN retail.order_items.unit_price IS 'Price of one unit at the time of sale, before the discount.';
COMMENT ON COLUMN retail.order_items.discount_percent IS 'Discount in percent of the line.';
COMMENT ON COLUMN retail.order_items.discount_amount IS 'Discount of the line as an amount.';
COMMENT ON COLUMN retail.order_items.total_amount IS 'quantity * unit_price - discount_amount.';

CREATE TABLE retail.inventory (
    store_id    uuid NOT NULL REFERENCES retail.stores,
    product_id  uuid NOT NULL REFERENCES retail.products,
    stock_level integer NOT NULL CHECK (stock_level >= 0),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, product_id)
);
COMMENT ON TABLE retail.inventory IS 'Stock per store and product, now.';
COMMENT ON COLUMN retail.inventory.store_id IS 'Store that holds the stock.';
COMMENT ON COLUMN retail.inventory.product_id IS 'Product in stock.';
COMMENT ON COLUMN retail.inventory.stock_level IS 'Units on hand; 0 means out of stock.';
COMMENT ON COLUMN retail.inventory.updated_at IS 'When the stock was last counted.';
RESET ROLE;

-- pgvector's type and operator class are named with their schema: it need not be on anybody's search path.
DO $do$
DECLARE
    vector_schema name := (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector');
BEGIN
    IF NOT has_schema_privilege('retail_owner', vector_schema, 'USAGE') OR NOT has_schema_privilege('fence_reader', vector_schema, 'USAGE') THEN
        BEGIN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO retail_owner, fence_reader, fence_login, retail_loader', vector_schema);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'schema % of extension vector cannot be used', vector_schema
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('GRANT USAGE ON SCHEMA %I TO PUBLIC', vector_schema);
        END;
    END IF;
    SET LOCAL ROLE retail_owner;
    EXECUTE format($sql$
        CREATE TABLE retail.product_description_embeddings (
            product_id            uuid PRIMARY KEY,
            tenant_key            integer NOT NULL,
            description_embedding %1$I.vector(1536) NOT NULL,
            model                 text NOT NULL,
            content_hash          text NOT NULL,
            updated_at            timestamptz NOT NULL DEFAULT now(),
            FOREIGN KEY (tenant_key, product_id) REFERENCES retail.products (tenant_key, product_id) ON DELETE CASCADE
        )$sql$, vector_schema);
    EXECUTE format('CREATE INDEX product_description_embeddings_hnsw_idx ON retail.product_description_embeddings USING hnsw (description_embedding %I.vector_cosine_ops)', vector_schema);
    CREATE INDEX product_description_embeddings_tenant_idx ON retail.product_description_embeddings (tenant_key, product_id);
END $do$;
SET LOCAL ROLE retail_owner;
COMMENT ON TABLE retail.product_description_embeddings IS 'Vector of each product description, for semantic search.';
COMMENT ON COLUMN retail.product_description_embeddings.product_id IS 'Product described.';
COMMENT ON COLUMN retail.product_description_embeddings.tenant_key IS 'Chain that sells the product.';
COMMENT ON COLUMN retail.product_description_embeddings.description_embedding IS 'Embedding of the description, 1536 dimensions, for cosine distance.';
COMMENT ON COLUMN retail.product_description_embeddings.model IS 'Model that made the embedding; vectors of different models do not compare.';
COMMENT ON COLUMN retail.product_description_embeddings.content_hash IS 'SHA-256 of the embedded text, hexadecimal: tells outdated rows.';
COMMENT ON COLUMN retail.product_description_embeddings.updated_at IS 'When the embedding was made.';
RESET ROLE;
