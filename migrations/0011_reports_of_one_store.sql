-- Reports of one store read all order items of that store and no others. These lie scattered over the table, and the planner
-- cannot see how many stores a call has: the fence hides that from the statement. It expects ten, and so it reads the whole
-- table through. Two things make the store's own part the cheaper one:
--  the index          has the columns that reports group by and add up, so that the table is not looked at
--  random_page_cost   is that of solid state disks. It is set for run_report alone: the other functions' plans do not hang on it.
-- It is a setting of the planner and no part of the fence; a statement that changes it changes its own plan.
-- On a large table the index takes minutes, in which rows can be read but not written.

SET LOCAL ROLE retail_owner;
CREATE INDEX order_items_store_report_idx ON retail.order_items (store_id, order_id) INCLUDE (product_id, quantity, total_amount);
-- the same leading columns: the foreign key to orders is served by the new one
DROP INDEX IF EXISTS retail.order_items_store_order_idx;
RESET ROLE;

SET LOCAL ROLE fence_reader;
ALTER FUNCTION fence.run_report(text, text, integer, integer) SET random_page_cost = 1.1;
RESET ROLE;
