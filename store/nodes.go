package store

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"keyhole/keys"
)

// remembered is how long nodes and leases that have ended are kept.
const remembered = 24 * time.Hour

// withNow puts the clock of the database into a query: its word for now, in
// microseconds, for each NOW.
func (d *database) withNow(query string) string { return strings.ReplaceAll(query, "NOW", d.nowSQL) }

// AcquireLease implements Store.
func (d *database) AcquireLease(ctx context.Context, name, holder string, ttl time.Duration) (held bool, err error) {
	if name == "" || holder == "" || ttl <= 0 {
		return false, broken("lease %q for %q is not filled in", name, holder)
	}
	err = d.update(ctx, "acquiring a lease", func(tx *sql.Tx) error {
		n, err := affected(tx.ExecContext(ctx, d.withNow("INSERT INTO leases (name, holder, until) VALUES (?, ?, NOW + ?) "+
			"ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until "+
			"WHERE leases.holder = excluded.holder OR leases.until <= NOW"), name, holder, ttl.Microseconds()))
		held = n > 0
		return err
	})
	return held && err == nil, err
}

// ReleaseLease implements Store.
func (d *database) ReleaseLease(ctx context.Context, name, holder string) error {
	return d.update(ctx, "releasing a lease", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM leases WHERE name = ? AND holder = ?", name, holder)
		return err
	})
}

// Beat implements Store.
func (d *database) Beat(ctx context.Context, n keys.Node, lapse time.Duration) error {
	if n.Instance == "" || n.Name == "" || lapse <= 0 || n.Revision > maxID {
		return broken("the heartbeat of node %q is not filled in", n.Name)
	}
	return d.update(ctx, "keeping a heartbeat", func(tx *sql.Tx) error {
		if _, err := d.hold(ctx, tx); err != nil { // of two that come at once, one is first
			return err
		}
		known, err := d.nameIsFree(ctx, tx, n)
		if err != nil {
			return err
		}
		if !known {
			if err := d.forgetNodes(ctx, tx); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, d.withNow("INSERT INTO nodes (instance, name, version, revision, started_at, seen_at, until) VALUES (?, ?, ?, ?, NOW, NOW, NOW + ?) "+
			"ON CONFLICT (instance) DO UPDATE SET name = excluded.name, version = excluded.version, revision = excluded.revision, seen_at = excluded.seen_at, until = excluded.until"),
			n.Instance, n.Name, n.Version, n.Revision, lapse.Microseconds())
		return err
	})
}

// nameIsFree refuses a node whose name another instance has: one that was
// seen a moment ago (takeover), and this one was not. known says that the instance is
// not new.
func (d *database) nameIsFree(ctx context.Context, tx *sql.Tx, n keys.Node) (known bool, err error) {
	var seen, others int
	err = tx.QueryRowContext(ctx, d.withNow("SELECT coalesce(sum(CASE WHEN instance = ? THEN 1 ELSE 0 END), 0), "+
		"coalesce(sum(CASE WHEN instance = ? AND name = ? AND seen_at > NOW - ? THEN 1 ELSE 0 END), 0), "+
		"coalesce(sum(CASE WHEN instance <> ? AND name = ? AND seen_at > NOW - ? THEN 1 ELSE 0 END), 0) FROM nodes"),
		n.Instance, n.Instance, n.Name, d.takeover.Microseconds(), n.Instance, n.Name, d.takeover.Microseconds()).Scan(&known, &seen, &others)
	if err == nil && others > 0 && seen == 0 {
		err = keys.Errorf(keys.ErrConflict, "another gateway runs under the name %q of this one, or was killed a moment ago: give each its own name (node)", n.Name)
	}
	return known, err
}

// forgetNodes removes what ended long ago.
func (d *database) forgetNodes(ctx context.Context, tx *sql.Tx) error {
	for _, query := range []string{"DELETE FROM nodes WHERE until < NOW - ?", "DELETE FROM leases WHERE until < NOW - ?"} {
		if _, err := tx.ExecContext(ctx, d.withNow(query), remembered.Microseconds()); err != nil {
			return err
		}
	}
	return nil
}

// Leave implements Store.
func (d *database) Leave(ctx context.Context, instance string) error {
	return d.update(ctx, "leaving", func(tx *sql.Tx) error {
		for _, query := range []string{"DELETE FROM leases WHERE holder = ?", "DELETE FROM nodes WHERE instance = ?"} {
			if _, err := tx.ExecContext(ctx, query, instance); err != nil {
				return err
			}
		}
		return nil
	})
}

// Nodes implements Store.
func (d *database) Nodes(ctx context.Context) (all []keys.Node, revision uint64, err error) {
	err = d.view(ctx, "reading the nodes", func(tx *sql.Tx) error {
		if revision, err = d.revision(ctx, tx); err != nil {
			return err
		}
		all, err = selectAll(ctx, tx, func(rows *sql.Rows) (n keys.Node, err error) {
			return n, rows.Scan(&n.Instance, &n.Name, &n.Version, &n.Revision, (*stamp)(&n.StartedAt), (*stamp)(&n.SeenAt), (*stamp)(&n.Until), &n.Live)
		}, d.withNow("SELECT instance, name, version, revision, started_at, seen_at, until, until > NOW FROM nodes ORDER BY name, started_at, instance"))
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return all, revision, nil
}

// Hints implements Store: nobody but this process tells.
func (d *database) Hints() <-chan struct{} { return nil }
