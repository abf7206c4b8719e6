package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyhole/audit"
	"keyhole/audit/merkle"
	"keyhole/audit/verify"
)

// logDir is the audit directory of a stopped gateway, in the hands of
// somebody with root.
type logDir struct {
	t   *testing.T
	dir string
}

func (d logDir) path(name string) string { return filepath.Join(d.dir, name) }

func (d logDir) lines() [][]byte {
	d.t.Helper()
	b, err := os.ReadFile(d.path("00000001.jsonl"))
	must(d.t, err)
	return bytes.SplitAfter(b, []byte("\n"))
}

func (d logDir) edit(change func(lines [][]byte) [][]byte) {
	d.t.Helper()
	lines := d.lines()
	lines = change(lines[:len(lines)-1]) // behind the last newline there is nothing
	must(d.t, os.WriteFile(d.path("00000001.jsonl"), bytes.Join(lines, nil), 0o600))
}

// forget takes away the journal, which says how long the log was.
func (d logDir) forget() {
	d.t.Helper()
	must(d.t, os.Remove(d.path("journal")))
}

// rehash makes the hashes those of the lines.
func (d logDir) rehash() {
	d.t.Helper()
	must(d.t, os.Remove(d.path("hashes")))
	f, err := merkle.OpenFile(d.path("hashes"))
	must(d.t, err)
	defer f.Close()
	var tree merkle.Tree
	d.edit(func(lines [][]byte) [][]byte {
		for _, l := range lines {
			n := tree.Size()
			must(d.t, f.Put(n, tree.Append(nil, merkle.LeafHash(l))))
		}
		return lines
	})
}

// whitewash turns the record of a denial into one of a success.
func whitewash(line []byte) []byte {
	return bytes.Replace(line, []byte(`"outcome":"denied"`), []byte(`"outcome":"ok"`), 1)
}

// cut removes the last records.
func cut(n int) func([][]byte) [][]byte {
	return func(lines [][]byte) [][]byte { return lines[:len(lines)-n] }
}

// dropCheckpoints removes the newest checkpoints.
func (d logDir) dropCheckpoints(n int) {
	d.t.Helper()
	b, err := os.ReadFile(d.path("checkpoints"))
	must(d.t, err)
	ends := bytes.Split(b, []byte("\n\n\u2014"))
	if len(ends) <= n+1 {
		d.t.Fatalf("only %d checkpoints", len(ends)-1)
	}
	all := bytes.SplitAfter(b, []byte("\n\n")) // text and signatures take turns
	must(d.t, os.WriteFile(d.path("checkpoints"), bytes.Join(all[:2*(len(ends)-1-n)], nil), 0o600))
}

// startFails starts the gateway, which must refuse because of its audit log,
// and say so in words that hold each of texts.
func (g *gateway) startFails(texts ...string) {
	g.t.Helper()
	p := run(g.t, nil, "dev", "--dir", g.dir, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0")
	eventually(g.t, "it ends or serves", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return p.stdout.String() != ""
		}
	})
	if out := p.stdout.String(); out != "" {
		g.t.Errorf("it serves: %s", out)
		return
	}
	status, said := p.wait(), p.stderr.String()
	for _, text := range texts {
		if status != 6 || !strings.Contains(said, text) {
			g.t.Errorf("status %d, want 6 and %q:\n%s", status, text, tail(said, 2000))
		}
	}
}

// What docs/audit.md says of each way to tamper with a log that lies still.
func TestTamperedAuditLog(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	for round := range 3 { // each start and each stop signs a checkpoint
		for range 4 {
			g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(200)
		}
		g.post(agent, "/v1/admin/keys/payments/rotate", `{}`).want(403)
		g.stop()
		if round < 2 {
			g.start()
		}
	}
	g.whole()
	denied := -1 // a record in the middle
	for _, r := range g.records() {
		if r.Outcome == audit.OutcomeDenied && denied < 0 {
			denied = int(r.Seq)
		}
	}
	saved, kept, keysFile := filepath.Join(t.TempDir(), "audit"), filepath.Join(t.TempDir(), "kept"), filepath.Join(t.TempDir(), "keys")
	copyTree(t, g.path("audit"), saved)
	copyFile(t, g.path("audit/checkpoints"), kept)
	copyFile(t, g.path("audit-keys.pem"), keysFile)
	d := logDir{t, g.path("audit")}

	for name, tt := range map[string]struct {
		tamper  func()
		kind    verify.Kind // what the log itself tells; "": nothing
		seq     int         // of the record named, if the kind is about one
		since   verify.Kind // what a checkpoint kept elsewhere tells beside; "": the same
		refuses []string    // what the gateway says that does not start; nil: it starts
	}{
		"altered": {
			tamper: func() {
				d.edit(func(l [][]byte) [][]byte { l[denied] = whitewash(l[denied]); return l })
			},
			kind: verify.Altered, seq: denied,
		},
		"removed": {
			tamper: func() {
				d.edit(func(l [][]byte) [][]byte { return append(l[:denied:denied], l[denied+1:]...) })
			},
			kind: verify.Missing, seq: denied,
		},
		"inserted": {
			tamper: func() {
				d.edit(func(l [][]byte) [][]byte {
					return append(append(l[:denied:denied], whitewash(l[denied])), l[denied:]...)
				})
			},
			kind: verify.Inserted, seq: denied,
		},
		"changed places": {
			tamper: func() {
				d.edit(func(l [][]byte) [][]byte { l[denied], l[denied+1] = l[denied+1], l[denied]; return l })
			},
			kind: verify.Reordered, seq: denied,
		},
		"altered, hashes made anew": {
			tamper: func() {
				d.edit(func(l [][]byte) [][]byte { l[denied] = whitewash(l[denied]); return l })
				d.rehash()
				d.forget()
			},
			kind: verify.Rewritten, refuses: []string{"the audit log was altered", "keep a copy of the directory", "keyhole audit verify"},
		},
		"the end cut": {
			tamper: func() { d.edit(cut(3)) },
			kind:   verify.Truncated, refuses: []string{"the audit log was cut", "put the missing lines back", "the SIEM"},
		},
		"the end cut, without the journal": {
			tamper: func() { d.edit(cut(3)); d.forget() },
			kind:   verify.Truncated, refuses: []string{"the audit log was cut", "put the missing lines back", "the SIEM"},
		},
		"the end cut with its checkpoints and hashes": {
			tamper: func() {
				d.edit(cut(3))
				d.rehash()
				d.dropCheckpoints(1)
			},
			since: verify.Truncated,
		},
		"a checkpoint forged": {
			tamper: func() {
				b, err := os.ReadFile(d.path("checkpoints"))
				must(t, err)
				at := bytes.LastIndex(b, []byte("keyhole-audit.v1 ")) + len("keyhole-audit.v1 ") + 20
				c := byte('A')
				if b[at] == c {
					c = 'B'
				}
				b[at] = c
				must(t, os.WriteFile(d.path("checkpoints"), b, 0o600))
			},
			kind: verify.BadSignature, refuses: []string{"cannot be believed", "keyhole audit verify"},
		},
		"hashes altered": {
			tamper: func() {
				b, err := os.ReadFile(d.path("hashes"))
				must(t, err)
				for i := range b {
					b[i] ^= 0x55
				}
				must(t, os.WriteFile(d.path("hashes"), b, 0o600))
			},
			kind: verify.BadHashes,
		},
		"hashes and the audit keys lost": {
			tamper: func() {
				must(t, os.Remove(d.path("hashes")))
				must(t, os.Remove(g.path("audit-keys.pem")))
			},
			refuses: []string{"hashes does not hold what the last checkpoint says", "put the file back from a backup"},
		},
		"the log of another gateway": {
			tamper:  func() { must(t, os.WriteFile(d.path("origin"), []byte("keyhole/other/01234567"), 0o600)) },
			refuses: []string{"was put together from two", "put the right files back"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gateway{t: t, dir: g.dir, api: g.api, ops: g.ops, http: g.http}
			must(t, os.RemoveAll(d.dir))
			copyTree(t, saved, d.dir)
			copyFile(t, keysFile, g.path("audit-keys.pem"))
			tt.tamper()
			g.finds(keysFile, tt.kind, tt.seq)
			if tt.since != "" {
				g.finds(keysFile, tt.since, 0, "--since-checkpoint", kept)
			}
			if tt.refuses != nil {
				g.startFails(append(tt.refuses, "docs/audit.md")...)
			}
		})
	}
}

// finds fails the test unless verify finds exactly that ("": nothing).
func (g *gateway) finds(keysFile string, kind verify.Kind, seq int, args ...string) {
	g.t.Helper()
	s := g.cli(admin, append([]string{"audit", "verify", g.path("audit"), "--key", keysFile, "-o", "json"}, args...)...)
	var r verify.Result
	must(g.t, json.Unmarshal([]byte(s.out), &r))
	switch {
	case kind == "" && (s.code != 0 || len(r.Findings) != 0):
		g.t.Errorf("verify finds something: status %d\n%s%s", s.code, s.out, s.errOut)
	case kind != "" && (s.code != 3 || len(r.Findings) == 0 || r.Findings[0].Kind != kind):
		g.t.Errorf("verify finds no %s: status %d\n%s%s", kind, s.code, s.out, s.errOut)
	case seq != 0 && (int(r.Findings[0].Seq) != seq || r.Findings[0].Line != seq+1 || !strings.HasSuffix(r.Findings[0].File, "00000001.jsonl")):
		g.t.Errorf("verify names %+v, not record %d", r.Findings[0], seq)
	}
}

// A restart does not launder what was altered: the gateway does not read all
// lines at each start, and never signs for what they have become.
func TestRestartDoesNotLaunder(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	g.post(agent, "/v1/admin/keys/payments/rotate", `{}`).want(403)
	g.stop()
	denied := g.audited(func(r audit.Record) bool { return r.Outcome == audit.OutcomeDenied })[0].Seq
	d := logDir{t, g.path("audit")}
	d.edit(func(l [][]byte) [][]byte { l[denied] = whitewash(l[denied]); return l })
	d.forget()
	g.start()
	g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(200)
	g.stop()
	g.finds(g.path("audit-keys.pem"), verify.Altered, int(denied))
}

// Lost or altered hashes are made anew from lines that a checkpoint vouches
// for, and the repair is recorded.
func TestHashesAreRebuilt(t *testing.T) {
	g := newGateway(t)
	g.create("payments", "ES256", 0)
	for name, damage := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"altered": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte{7}, 4000), 0o600) },
	} {
		g.post(agent, "/v1/keys/payments/sign", `{"payload":"aGVsbG8="}`).want(200)
		g.stop()
		before := len(g.records())
		must(t, damage(g.path("audit/hashes")))
		g.start()
		if r := g.records()[before]; r.Action != audit.ActionRecover || r.Details["hashes"] != "rebuilt" {
			t.Errorf("%s: the first record after it is %+v", name, r)
		}
		g.whole()
	}
	g.stop()
	g.whole()
}
