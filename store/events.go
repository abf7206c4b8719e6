package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"keyhole/keys"
)

// appendNotices writes notices behind the last event. Its caller has the
// write lock, so that ids grow in the order of the commits.
func appendNotices(ctx context.Context, tx *sql.Tx, notices []keys.Notice) error {
	if _, err := tx.ExecContext(ctx, "UPDATE meta SET last_event = last_event + ?", len(notices)); err != nil {
		return err
	}
	var last uint64
	if err := tx.QueryRowContext(ctx, "SELECT last_event FROM meta").Scan(&last); err != nil {
		return err
	}
	for i, n := range notices {
		n.ID = last - uint64(len(notices)-1-i)
		if err := insert(ctx, tx, "events", noticeColumns, noticeValues(n), ""); err != nil {
			return err
		}
	}
	return nil
}

func scanNotice(rows *sql.Rows) (n keys.Notice, err error) {
	return n, rows.Scan(noticeFields(&n)...)
}

// Events implements Store.
func (d *database) Events(ctx context.Context, after uint64, limit int) (found []keys.Notice, err error) {
	after = min(after, maxID)
	err = d.view(ctx, "reading events", func(tx *sql.Tx) error {
		found, err = selectAll(ctx, tx, scanNotice, "SELECT "+noticeColumns+" FROM events WHERE id > ? ORDER BY id LIMIT ?", after, max(limit, 0))
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// EventRange implements Store.
func (d *database) EventRange(ctx context.Context) (oldest, newest uint64, err error) {
	err = d.view(ctx, "reading the range of events", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, "SELECT last_event, CASE WHEN last_event = 0 THEN 0 ELSE coalesce((SELECT min(id) FROM events), last_event + 1) END FROM meta").
			Scan(&newest, &oldest)
	})
	if err != nil {
		return 0, 0, err
	}
	return oldest, newest, nil
}

// ExpireEvents implements Store.
func (d *database) ExpireEvents(ctx context.Context, before time.Time) (int, error) {
	var n int64
	err := d.update(ctx, "expiring events", func(tx *sql.Tx) (err error) {
		at := before.UnixMicro()
		n, err = affected(tx.ExecContext(ctx, "DELETE FROM events WHERE at < ? AND id < coalesce((SELECT min(id) FROM events WHERE at >= ?), ?)", at, at, maxID))
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

const hookColumns = "name, cursor, failures, first_fail, retry_at, last_error, last_ok"

// Hook implements Store.
func (d *database) Hook(ctx context.Context, name string) (h Hook, err error) {
	read := func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, "SELECT "+hookColumns+" FROM hooks WHERE name = ?", name).
			Scan(&h.Name, &h.Cursor, &h.Failures, (*stamp)(&h.FirstFail), (*stamp)(&h.RetryAt), &h.LastError, (*stamp)(&h.LastOK))
	}
	known := true
	err = d.view(ctx, "reading a webhook", func(tx *sql.Tx) error {
		err := read(tx)
		if known = !errors.Is(err, sql.ErrNoRows); !known {
			return nil
		}
		return err
	})
	if err != nil || known {
		return h, err
	}
	if name == "" {
		return Hook{}, broken("a webhook has no name")
	}
	err = d.update(ctx, "entering a webhook", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO hooks (name, cursor, failures, last_error) SELECT ?, last_event, 0, '' FROM meta WHERE true ON CONFLICT (name) DO NOTHING", name)
		if err != nil {
			return err
		}
		return read(tx)
	})
	return h, err
}

const deadColumns = "hook, error, given_up, " + noticeColumns

// PutHook implements Store.
func (d *database) PutHook(ctx context.Context, h Hook, dead ...DeadEvent) error {
	if h.Name == "" || h.Cursor > maxID || h.Failures < 0 {
		return broken("webhook %q is to stand at event %d", h.Name, h.Cursor)
	}
	for _, e := range dead {
		if e.Hook != h.Name || e.Notice.ID == 0 || e.Notice.ID > maxID || e.At.IsZero() {
			return broken("event %d of webhook %q is given up by webhook %q", e.Notice.ID, e.Hook, h.Name)
		}
	}
	return d.update(ctx, "keeping a webhook", func(tx *sql.Tx) error {
		err := insert(ctx, tx, "hooks", hookColumns,
			[]any{h.Name, h.Cursor, h.Failures, stamp(h.FirstFail), stamp(h.RetryAt), h.LastError, stamp(h.LastOK)}, "name")
		for _, e := range dead {
			if err != nil {
				break
			}
			err = insert(ctx, tx, "dead_events", deadColumns, append([]any{e.Hook, e.Error, stamp(e.At)}, noticeValues(e.Notice)...), "hook, id")
		}
		return err
	})
}

// DeadEvents implements Store.
func (d *database) DeadEvents(ctx context.Context, hook string, limit int) (found []DeadEvent, err error) {
	if limit <= 0 {
		limit = noLimit
	}
	err = d.view(ctx, "reading dead events", func(tx *sql.Tx) error {
		found, err = selectAll(ctx, tx, func(rows *sql.Rows) (e DeadEvent, err error) {
			return e, rows.Scan(append([]any{&e.Hook, &e.Error, (*stamp)(&e.At)}, noticeFields(&e.Notice)...)...)
		}, "SELECT "+deadColumns+" FROM dead_events WHERE ? IN ('', hook) ORDER BY id, hook LIMIT ?", hook, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// ForgetDead implements Store.
func (d *database) ForgetDead(ctx context.Context, hook string, event uint64) error {
	return d.update(ctx, "forgetting a dead event", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "DELETE FROM dead_events WHERE hook = ? AND id = ?", hook, min(event, maxID))
		return err
	})
}
