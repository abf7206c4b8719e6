package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"math"

	"keyhole/keys"
)

// maxID bounds what a column of integers holds.
const maxID = math.MaxInt64

// claimOf is the lease, without an end, of whoever writes a node's counters.
func claimOf(node string) string { return "usage/" + node }

// ClaimUsage implements Store.
func (d *database) ClaimUsage(ctx context.Context, node string) error {
	if node == "" {
		return broken("the node whose usage is claimed has no name")
	}
	by := rand.Text()
	err := d.update(ctx, "claiming usage", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO leases (name, holder, until) VALUES (?, ?, ?) "+
			"ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until", claimOf(node), by, int64(maxID))
		return err
	})
	if err == nil {
		d.claims.Store(node, by)
	}
	return err
}

// holdClaim fails if another Store has claimed a node's counters since this
// one did. No claim can be made before tx has ended.
func (d *database) holdClaim(ctx context.Context, tx *sql.Tx, node string) error {
	by, claimed := d.claims.Load(node)
	if !claimed {
		return nil
	}
	n, err := affected(tx.ExecContext(ctx, "UPDATE leases SET until = ? WHERE name = ? AND holder = ?", int64(maxID), claimOf(node), by))
	if err == nil && n == 0 {
		err = keys.Errorf(keys.ErrConflict, "another gateway counts under the name %q of this one", node)
	}
	return err
}

// ReserveUsage implements Store.
func (d *database) ReserveUsage(ctx context.Context, node string, counted []keys.Usage) error {
	for _, u := range counted {
		if node == "" || u.Key == "" || u.Version == 0 || max(u.Applied, u.Processed, u.Bytes) > maxID {
			return broken("the usage of version %d of key %q on node %q is not filled in", u.Version, u.Key, node)
		}
	}
	if len(counted) == 0 {
		return nil
	}
	type counter struct {
		key       string
		version   uint32
		principal string
	}
	at, rows := map[counter]int{}, [][]any{}
	for _, u := range counted {
		row := []any{u.Key, u.Version, u.Principal, node, u.Applied, u.Processed, u.Bytes, stamp(u.LastUse)}
		c := counter{u.Key, u.Version, u.Principal}
		if i, twice := at[c]; twice { // the last one counts
			rows[i] = row
			continue
		}
		at[c], rows = len(rows), append(rows, row)
	}
	return d.update(ctx, "reserving usage", func(tx *sql.Tx) error {
		if err := d.holdClaim(ctx, tx, node); err != nil {
			return err
		}
		return insertAll(ctx, tx, "INSERT INTO usage (key_name, version, principal, node, applied, processed, bytes, last_use) VALUES ", rows,
			" ON CONFLICT (key_name, version, principal, node) DO UPDATE SET applied = excluded.applied, processed = excluded.processed, bytes = excluded.bytes, last_use = excluded.last_use")
	})
}

// Usage implements Store.
func (d *database) Usage(ctx context.Context, key, node string) (found []keys.Usage, err error) {
	where, args := by("1 = 1", nil, "key_name", key, key == "")
	where, args = by(where, args, "node", node, node == "")
	err = d.view(ctx, "reading usage", func(tx *sql.Tx) error {
		found = nil
		return each(ctx, tx, func(rows *sql.Rows) (bool, error) {
			var u keys.Usage
			if err := rows.Scan(&u.Key, &u.Version, &u.Principal, &u.Applied, &u.Processed, &u.Bytes, (*stamp)(&u.LastUse)); err != nil {
				return false, err
			}
			if n := len(found) - 1; n >= 0 && found[n].Key == u.Key && found[n].Version == u.Version && found[n].Principal == u.Principal {
				found[n].Add(u)
			} else {
				found = append(found, u)
			}
			return true, nil
		}, "SELECT key_name, version, principal, applied, processed, bytes, last_use FROM usage WHERE "+where+" ORDER BY key_name, version, principal", args...)
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
