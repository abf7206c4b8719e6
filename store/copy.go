package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"

	"keyhole/keys"
	"keyhole/store/internal/postgres"
)

// CopyConfig says how Copy goes about it.
type CopyConfig struct {
	// LeaveOut leaves out what was altered in the source, instead of refusing
	// to copy anything. Keys that are left out can be rebuilt from the token.
	LeaveOut bool
	// Progress is told how far each table is, if it is not nil.
	Progress func(table string, done, total int)
}

// Copied is what a Copy did.
type Copied struct {
	Rows     map[string]int // of each table
	LeftOut  []string       // what was altered, in words
	Revision uint64         // of the target
	// Already is true if an earlier Copy had been made, and nothing was
	// written now.
	Already bool
}

// Copy copies everything that the store from holds into the store to, which
// has to be empty, in one transaction: either all is there afterwards, or
// nothing. Both are open with the same key of the seals. What was written is
// read again before it counts: every row is as it was, and every seal right.
//
// It can be called again after any error; also after keys.ErrStore, when the
// copy may have been made. Other errors:
//
//   - keys.ErrTampered: something was altered in the source, and is named; the
//     list of blocked principals is never left out
//   - keys.ErrInUse: a gateway uses one of the two stores
//   - keys.ErrKeyExists: the target is not empty, and no copy of the source
//
// Leases and nodes are not copied: they belong to gateways that run.
func Copy(ctx context.Context, from *SQLite, to *Postgres, c CopyConfig) (done Copied, err error) {
	err = from.view(ctx, "reading the store to copy", func(tx *sql.Tx) error {
		done = Copied{}
		source, err := from.inspect(ctx, tx, c.LeaveOut)
		if err != nil {
			return err
		}
		done, err = to.takeIn(ctx, source, c.Progress)
		return err
	})
	if err != nil {
		return Copied{}, err
	}
	return done, nil
}

// origin is a state of a store that is to be copied.
type origin struct {
	tx       *sql.Tx
	revision uint64
	event    uint64
	leftOut  []string
	skip     skips
}

// skips are the names of damaged keys, rotations and approvals, by table.
type skips map[string]map[string]bool

func (s skips) has(t table, row []any) bool {
	names := s[t.skips]
	return len(names) > 0 && names[nameOf(row[0])]
}

// inspect looks at all that is sealed.
func (d *database) inspect(ctx context.Context, tx *sql.Tx, leaveOut bool) (origin, error) {
	o := origin{tx: tx}
	if err := d.noneLive(ctx, tx, "to be copied"); err != nil {
		return o, err
	}
	var err error
	if o.revision, err = d.revision(ctx, tx); err != nil {
		return o, err
	}
	if err := tx.QueryRowContext(ctx, "SELECT last_event FROM meta").Scan(&o.event); err != nil {
		return o, err
	}
	if o.skip, o.leftOut, err = d.altered(ctx, tx); err != nil {
		return o, err
	}
	if len(o.leftOut) > 0 && !leaveOut {
		return o, keys.Errorf(keys.ErrTampered, "%s was altered in the store to be copied: repair it (keys: `keyholed adopt`), or say that it is to be left out", sentence(o.leftOut))
	}
	return o, nil
}

// noneLive refuses a store that a gateway uses.
func (d *database) noneLive(ctx context.Context, tx *sql.Tx, what string) error {
	var name sql.NullString
	err := tx.QueryRowContext(ctx, d.withNow("SELECT max(name) FROM nodes WHERE until > NOW")).Scan(&name)
	if err == nil && name.Valid {
		err = keys.Errorf(keys.ErrInUse, "the gateway %q uses the store %s, or was killed less than a minute ago: stop it, and wait until then", clip(name.String), what)
	}
	return err
}

// altered returns what is not what Keyhole stored, with the open rotations of
// such keys: the names of rows by their table, and all in words.
func (d *database) altered(ctx context.Context, tx *sql.Tx) (skip skips, words []string, err error) {
	skip = skips{"keys": {}, "rotations": {}, "approvals": {}}
	note := func(table, what, name string) {
		skip[table][name] = true
		words = append(words, fmt.Sprintf("%s %q", what, clip(name)))
	}
	found, err := selectKeys(ctx, tx, "1 = 1", "1 = 1")
	if err != nil {
		return nil, nil, err
	}
	for _, r := range found {
		if d.intactKey(r) != nil {
			note("keys", "key", r.of.Name)
		}
	}
	err = each(ctx, tx, func(rows *sql.Rows) (bool, error) {
		r, err := scanRotation(rows)
		if err == nil && (d.intactRotation(r) != nil || !r.of.Phase.Done() && skip["keys"][r.of.Key]) {
			note("rotations", "rotation", r.of.ID)
		}
		return true, err
	}, "SELECT "+rotationColumns+" FROM rotations ORDER BY id")
	if err != nil {
		return nil, nil, err
	}
	err = each(ctx, tx, func(rows *sql.Rows) (bool, error) {
		r, err := scanApproval(rows)
		if err == nil && d.intactApproval(r) != nil {
			note("approvals", "approval", r.of.ID)
		}
		return true, err
	}, "SELECT "+approvalColumns+" FROM approvals ORDER BY id")
	if err != nil {
		return nil, nil, err
	}
	list, err := d.readBlocks(ctx, tx)
	if err == nil && !list.intact {
		err = blocksAltered()
	}
	return skip, words, err
}

func sentence(all []string) string {
	if len(all) > 20 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:20], ", "), len(all)-20)
	}
	return strings.Join(all, ", ")
}

// takeIn writes a state of another store into an empty one.
func (p *Postgres) takeIn(ctx context.Context, o origin, progress func(table string, done, total int)) (Copied, error) {
	done := Copied{Rows: map[string]int{}, LeftOut: o.leftOut}
	conn, err := p.write.Conn(ctx)
	if err == nil {
		defer conn.Close()
		err = transact(ctx, conn, p.updating, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
				return err
			}
			revision, err := p.hold(ctx, tx)
			if err != nil {
				return err
			}
			if err := p.noneLive(ctx, tx, "to copy to"); err != nil {
				return err
			}
			done.Revision = max(o.revision, revision+1)
			if filled, err := p.filled(ctx, tx); err != nil {
				return err
			} else if filled != "" {
				done.Revision, done.Already = revision, true
				return p.isCopy(ctx, tx, o, filled, done.Rows)
			}
			return p.fill(ctx, conn, tx, o, done, progress)
		})
	}
	return done, p.failed(ctx, "copying into "+p.connector.Where(), err)
}

// filled returns the name of a table that has something in it, "" if none.
func (p *Postgres) filled(ctx context.Context, tx *sql.Tx) (string, error) {
	for _, t := range copied {
		var n int
		query := "SELECT count(*) FROM " + t.name
		if t.name == sealedTable {
			query += " WHERE body <> '[]'"
		}
		if err := tx.QueryRowContext(ctx, query).Scan(&n); err != nil || n > 0 {
			return t.name, err
		}
	}
	return "", nil
}

// fill copies table by table, and compares what is there then.
func (p *Postgres) fill(ctx context.Context, conn *sql.Conn, tx *sql.Tx, o origin, done Copied, progress func(table string, done, total int)) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM "+sealedTable); err != nil {
		return err
	}
	for _, t := range copied {
		n, err := t.copy(ctx, conn, o, progress)
		if err != nil {
			return fmt.Errorf("copying %s: %w", t.name, err)
		}
		done.Rows[t.name] = n
	}
	if _, err := tx.ExecContext(ctx, "UPDATE meta SET revision = ?, last_event = ?", done.Revision, o.event); err != nil {
		return err
	}
	if table, err := differs(ctx, tx, o, map[string]int{}); err != nil {
		return err
	} else if table != "" {
		return fmt.Errorf("what was copied into %s is not what is in the source: %w", table, keys.ErrInternal)
	}
	switch _, words, err := p.altered(ctx, tx); {
	case errors.Is(err, keys.ErrTampered), err == nil && len(words) > 0:
		return keys.Errorf(keys.ErrTampered, "the target is sealed by another key than the store to be copied: open both by that of the same token")
	default:
		return err
	}
}

// isCopy accepts a store that holds what o holds, and refuses every other.
func (p *Postgres) isCopy(ctx context.Context, tx *sql.Tx, o origin, filled string, counts map[string]int) error {
	table, err := differs(ctx, tx, o, counts)
	if err == nil && table != "" {
		err = keys.Errorf(keys.ErrKeyExists, "the store %s is not empty (there is something in the table %s): name an empty database", p.connector.Where(), filled)
	}
	return err
}

// differs returns the name of a table that is not the same in tx and o, ""
// if all are. It counts their rows.
func differs(ctx context.Context, tx *sql.Tx, o origin, counts map[string]int) (string, error) {
	for _, t := range copied {
		there, n, err := t.digest(ctx, tx, nil)
		if err != nil {
			return "", err
		}
		here, _, err := t.digest(ctx, o.tx, o.skip)
		if err != nil {
			return "", err
		}
		if counts[t.name] = n; !bytes.Equal(there, here) {
			return t.name, nil
		}
	}
	return "", nil
}

// copy copies a table.
func (t table) copy(ctx context.Context, conn *sql.Conn, o origin, progress func(table string, done, total int)) (int, error) {
	total := 0
	if err := o.tx.QueryRowContext(ctx, "SELECT count(*) FROM "+t.name).Scan(&total); err != nil {
		return 0, err
	}
	source, err := o.tx.QueryContext(ctx, t.query())
	if err != nil {
		return 0, err
	}
	defer source.Close()
	read, tell := 0, func(done int) {
		if progress != nil {
			progress(t.name, done, total)
		}
	}
	n, err := postgres.CopyIn(ctx, conn, t.name, t.names(), func() ([]any, error) {
		for source.Next() {
			if read++; read%1000 == 0 {
				tell(read)
			}
			row, err := t.read(source)
			if err != nil {
				return nil, err
			}
			if !o.skip.has(t, row) {
				return row, nil
			}
		}
		return nil, source.Err()
	})
	if err == nil {
		tell(total)
	}
	return int(n), err
}

// digest is over all rows of a table, in their order, without those to skip.
func (t table) digest(ctx context.Context, tx *sql.Tx, skip skips) (sum []byte, n int, err error) {
	h := sha256.New()
	err = each(ctx, tx, func(rows *sql.Rows) (bool, error) {
		row, err := t.read(rows)
		if err != nil || skip.has(t, row) {
			return true, err
		}
		n++
		for _, v := range row {
			hashValue(h, v)
		}
		return true, nil
	}, t.query())
	return h.Sum(nil), n, err
}

func hashValue(h hash.Hash, v any) {
	kind, text := byte(0), []byte(nil)
	switch v := v.(type) {
	case bool:
		kind, text = 1, []byte(fmt.Sprint(v))
	case int64:
		kind, text = 2, binary.BigEndian.AppendUint64(nil, uint64(v))
	case string:
		kind, text = 3, []byte(v)
	case []byte:
		kind, text = 4, v
	}
	h.Write(binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(text))))
	h.Write(text)
}
