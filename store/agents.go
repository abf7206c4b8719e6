package store

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"keyhole/keys"
	"keyhole/store/internal/seal"
)

// blockJSON is a block in the sealed list of them.
type blockJSON struct {
	Principal string `json:"principal"`
	At        int64  `json:"at"` // microseconds
	By        string `json:"by"`
	Reason    string `json:"reason"`
}

const blocksName = "blocks"

// blocks are the blocked principals. The list is one sealed row: none of it
// can be taken away alone.
type blocks struct {
	by       map[string]*keys.Block
	revision uint64
	intact   bool
}

func (d *database) readBlocks(ctx context.Context, tx *sql.Tx) (b blocks, err error) {
	var name, body string
	var mac []byte
	whole := false
	b.by = map[string]*keys.Block{}
	err = each(ctx, tx, func(rows *sql.Rows) (more bool, err error) {
		whole, err = readable(rows, &name, &name, &body, &b.revision, &mac)
		return false, err
	}, "SELECT name, body, revision, mac FROM sealed WHERE name = ?", blocksName)
	if err != nil {
		return b, err
	}
	var all []blockJSON
	whole = object{&all}.Scan(body) == nil && whole
	for _, e := range all {
		b.by[e.Principal] = &keys.Block{At: time.UnixMicro(e.At).UTC(), By: e.By, Reason: e.Reason}
	}
	b.intact = whole && seal.Equal(mac, d.seal.Text(blocksName, body, b.revision))
	return b, nil
}

// writeBlocks keeps the list. One that was altered stays so, whatever is
// added to it.
func (d *database) writeBlocks(ctx context.Context, tx *sql.Tx, b blocks, revision uint64) error {
	all := []blockJSON{}
	for _, principal := range slices.Sorted(maps.Keys(b.by)) {
		e := b.by[principal]
		all = append(all, blockJSON{principal, e.At.UnixMicro(), e.By, e.Reason})
	}
	body, err := object{all}.Value()
	if err != nil {
		return err
	}
	var mac []byte
	if b.intact {
		mac = d.seal.Text(blocksName, body.(string), revision)
	}
	return insert(ctx, tx, "sealed", "name, body, revision, mac", []any{blocksName, body, revision, mac}, "name")
}

// blocksAltered says that nobody knows who is blocked.
func blocksAltered() error {
	return keys.Errorf(keys.ErrTampered, "the list of blocked principals is not what Keyhole stored: somebody altered the database, or it is sealed by another token; "+
		"run `keyholed adopt`, and see that nobody is missing from it")
}

// BlockAgent implements Store.
func (d *database) BlockAgent(ctx context.Context, principal string, b *keys.Block) error {
	if principal == "" || b != nil && b.At.IsZero() {
		return broken("the block of %q is not filled in", principal)
	}
	if b != nil {
		if err := checkTexts("a block", principal, b.By, b.Reason); err != nil {
			return err
		}
	}
	return d.update(ctx, "blocking an agent", func(tx *sql.Tx) error {
		revision, err := d.nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		list, err := d.readBlocks(ctx, tx)
		if err != nil {
			return err
		}
		if b != nil {
			list.by[principal] = b
			return d.writeBlocks(ctx, tx, list, revision)
		}
		if !list.intact {
			return blocksAltered()
		}
		if list.by[principal] == nil {
			_, err := selectAgent(ctx, tx, keys.AgentID(principal))
			return err
		}
		delete(list.by, principal)
		return d.writeBlocks(ctx, tx, list, revision)
	})
}

// Blocked implements Store.
func (d *database) Blocked(ctx context.Context) ([]string, error) {
	// What is read below is not older than what was read before.
	from := d.blocksFrom.Load()
	var list blocks
	err := d.view(ctx, "reading who is blocked", func(tx *sql.Tx) (err error) {
		list, err = d.readBlocks(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	all := slices.Sorted(maps.Keys(list.by))
	if !list.intact || list.revision < from {
		return all, blocksAltered()
	}
	for seen := from; list.revision > seen && !d.blocksFrom.CompareAndSwap(seen, list.revision); {
		seen = d.blocksFrom.Load()
	}
	return all, nil
}

// AdoptBlocks implements Store.
func (d *database) AdoptBlocks(ctx context.Context) (all []string, err error) {
	err = d.update(ctx, "adopting the list of blocked principals", func(tx *sql.Tx) error {
		revision, err := d.nextRevision(ctx, tx)
		if err != nil {
			return err
		}
		list, err := d.readBlocks(ctx, tx)
		if err != nil {
			return err
		}
		all, list.intact = slices.Sorted(maps.Keys(list.by)), true
		return d.writeBlocks(ctx, tx, list, revision)
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// SeeAgents implements Store.
func (d *database) SeeAgents(ctx context.Context, seen []Sighting) error {
	for _, s := range seen {
		if s.Principal == "" || s.At.IsZero() {
			return broken("somebody was seen who has no name, or at no time")
		}
	}
	type span struct{ first, last time.Time }
	spans := map[string]span{}
	for _, s := range seen {
		sp, twice := spans[s.Principal]
		if !twice {
			sp.first = s.At
		}
		if s.At.After(sp.last) {
			sp.last = s.At
		}
		spans[s.Principal] = sp
	}
	rows := make([][]any, 0, len(spans))
	for _, principal := range slices.Sorted(maps.Keys(spans)) { // several gateways lock in one order
		rows = append(rows, []any{principal, keys.AgentID(principal), stamp(spans[principal].first), stamp(spans[principal].last)})
	}
	return d.update(ctx, "noting who was seen", func(tx *sql.Tx) error {
		return insertAll(ctx, tx, "INSERT INTO agents (principal, id, first_seen, last_seen) VALUES ", rows,
			" ON CONFLICT (principal) DO UPDATE SET last_seen = excluded.last_seen WHERE excluded.last_seen > agents.last_seen")
	})
}

const agentColumns = "principal, first_seen, last_seen"

func scanAgent(rows *sql.Rows) (*keys.Agent, error) {
	a := &keys.Agent{}
	return a, rows.Scan(&a.Principal, (*stamp)(&a.FirstSeen), (*stamp)(&a.LastSeen))
}

func selectAgent(ctx context.Context, tx *sql.Tx, id string) (*keys.Agent, error) {
	var found []*keys.Agent
	var err error
	if utf8.ValidString(id) {
		found, err = selectAll(ctx, tx, scanAgent, "SELECT "+agentColumns+" FROM agents WHERE id = ?", id)
	}
	if err == nil && (len(found) == 0 || keys.AgentID(found[0].Principal) != id) {
		err = keys.Errorf(keys.ErrNotFound, "there is no agent %q here, or you may not see it", clip(id))
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// Agent implements Store.
func (d *database) Agent(ctx context.Context, id string) (a *keys.Agent, err error) {
	err = d.view(ctx, "reading an agent", func(tx *sql.Tx) error {
		list, err := d.readBlocks(ctx, tx)
		if err != nil {
			return err
		}
		a, err = selectAgent(ctx, tx, id)
		if errors.Is(err, keys.ErrNotFound) { // known by a block only
			for principal := range list.by {
				if keys.AgentID(principal) == id {
					a, err = &keys.Agent{Principal: principal}, nil
				}
			}
		}
		if err == nil {
			a.Block = list.by[a.Principal]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Agents implements Store.
func (d *database) Agents(ctx context.Context, f AgentFilter) (found []*keys.Agent, err error) {
	limit := noLimit
	if f.Limit > 0 {
		limit = f.Limit
	}
	err = d.view(ctx, "reading agents", func(tx *sql.Tx) error {
		list, err := d.readBlocks(ctx, tx)
		if err != nil {
			return err
		}
		found, err = selectAll(ctx, tx, scanAgent, "SELECT "+agentColumns+" FROM agents WHERE principal > ? ORDER BY principal LIMIT ?", f.After, limit)
		for _, a := range found {
			a.Block = list.by[a.Principal]
			delete(list.by, a.Principal)
		}
		for principal, b := range list.by { // known by a block only
			if principal > f.After {
				found = append(found, &keys.Agent{Principal: principal, Block: b})
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b *keys.Agent) int { return strings.Compare(a.Principal, b.Principal) })
	if f.Limit > 0 && len(found) > f.Limit {
		found = found[:f.Limit]
	}
	return found, nil
}
