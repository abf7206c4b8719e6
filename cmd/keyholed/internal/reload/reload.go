// Package reload brings changed files into a running gateway: when they
// change on the disk, and when an operator sends SIGHUP. A file that cannot
// be used changes nothing: the old contents serve on, and the log, the audit
// log and a metric say so until it is mended.
package reload

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"keyhole/audit"
)

// Part is a group of files that are used together.
type Part struct {
	Name  string // "tls", "auth", "policies"
	Paths func() []string
	// Load reads the files and puts them to use, all or nothing. hash
	// identifies what is in use after it.
	Load func(ctx context.Context) (changed bool, hash string, err error)
}

// Auditor records.
type Auditor interface {
	Append(ctx context.Context, recs ...audit.Record) (first uint64, err error)
}

// Config is what a Reloader needs.
type Config struct {
	Parts    []Part
	Interval time.Duration                // between looks at the files; 0: only when told to
	Now      <-chan os.Signal             // each value is an order to load everything
	Audit    Auditor                      //
	Observe  func(part string, err error) // of each load that changed something, was ordered, or failed anew
	Log      *slog.Logger
}

// Reloader watches the parts.
type Reloader struct {
	cfg   Config
	parts []*watched
}

type watched struct {
	Part
	seen   uint64 // fingerprint of the files when they were last loaded
	failed bool   // the last load did not succeed
}

// New returns a Reloader. It does not know which state of the files was
// loaded before it came, so its first look loads them all; nobody hears of it
// where nothing has changed.
func New(c Config) *Reloader {
	r := &Reloader{cfg: c}
	for _, p := range c.Parts {
		r.parts = append(r.parts, &watched{Part: p})
	}
	return r
}

// Run watches until ctx ends.
func (r *Reloader) Run(ctx context.Context) error {
	var tick <-chan time.Time
	if r.cfg.Interval > 0 {
		t := time.NewTicker(r.cfg.Interval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.cfg.Now:
			r.cfg.Log.InfoContext(ctx, "told to load the files again")
			for _, p := range r.parts {
				r.load(ctx, p, true)
			}
		case <-tick:
			for _, p := range r.parts {
				r.look(ctx, p)
			}
		}
	}
}

// look loads a part whose files have changed, and one whose last load failed:
// two files that belong together are not replaced in the same instant.
func (r *Reloader) look(ctx context.Context, p *watched) {
	if p.failed || fingerprint(p.Paths()) != p.seen {
		r.load(ctx, p, false)
	}
}

func (r *Reloader) load(ctx context.Context, p *watched, ordered bool) {
	now := fingerprint(p.Paths()) // before reading: what changes meanwhile is seen next time
	start := time.Now()
	changed, hash, err := p.Load(ctx)
	again := p.failed && err != nil && now == p.seen
	mended := p.failed && err == nil
	p.seen, p.failed = now, err != nil
	if ctx.Err() != nil || again && !ordered || err == nil && !changed && !ordered && !mended {
		return
	}
	r.cfg.Observe(p.Name, err)
	rec := audit.Record{
		Action: "reload", Principal: "system", AuthMethod: "system", Initiator: "system", Outcome: audit.OutcomeOK,
		Details: map[string]string{"what": p.Name}, Duration: time.Since(start),
	}
	if err != nil {
		rec.Outcome, rec.Reason = audit.OutcomeError, "the files cannot be used; the old contents serve on"
		r.cfg.Log.ErrorContext(ctx, "RELOAD FAILED: the old contents serve on until the files are mended", "what", p.Name, "err", err)
	} else {
		rec.Details["hash"] = hash
		r.cfg.Log.InfoContext(ctx, "loaded", "what", p.Name, "changed", changed, "hash", hash)
	}
	if _, err := r.cfg.Audit.Append(ctx, rec); err != nil {
		r.cfg.Log.ErrorContext(ctx, "the reload was not recorded", "what", p.Name, "err", err)
	}
}

// fingerprint changes whenever one of the files, or of those in directories
// among paths, is replaced, rewritten, added or removed.
func fingerprint(paths []string) uint64 {
	h := fnv.New64a()
	for _, p := range paths {
		info, err := os.Stat(p)
		note(h, p, info, err)
		if err != nil || !info.IsDir() {
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil {
			note(h, p, nil, err)
		}
		for _, e := range entries {
			info, err := os.Stat(filepath.Join(p, e.Name()))
			note(h, e.Name(), info, err)
		}
	}
	return h.Sum64()
}

func note(h hash.Hash, name string, info fs.FileInfo, err error) {
	if err != nil {
		h.Write(fmt.Appendf(nil, "%q missing %t\n", name, errors.Is(err, fs.ErrNotExist)))
		return
	}
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	h.Write(fmt.Appendf(nil, "%q %d %d %d %v\n", name, info.ModTime().UnixNano(), info.Size(), inode, info.Mode()))
}
