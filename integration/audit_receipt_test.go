package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/audit/verify"
	"keyhole/client"
	"keyhole/gateway/api"
	"keyhole/keys"
)

// An agent keeps the receipt of a signature. Later, after rotations of the
// audit key, a restart and the archiving of segments, an auditor with public
// keys alone is shown that the signature is in the log.
func TestReceiptOutlivesAll(t *testing.T) {
	g := stopped(t)
	g.edit("keyhole.yaml", "  dir: audit\n", "  dir: audit\n  segment_size: 1MiB\n  checkpoint_every: 1s\n")
	g.start()
	g.create("payments", "ES256", 0)
	ctx := t.Context()
	var r client.Receipt
	_, err := g.as(agent).Sign(client.WithReceipt(ctx, &r), "payments", api.SignRequest{Payload: []byte("x")})
	must(t, err)
	for range 3 { // more than a segment holds
		_, err := g.as(agent).SignBatch(ctx, "payments", make([]api.SignRequest, api.MaxBatch))
		must(t, err)
	}
	g.rotate(keys.AuditKeyName)
	auditor := g.as(admin)
	check := func(when string) {
		t.Helper()
		_, err := auditor.AuditCheckpoint(ctx, true)
		must(t, err)
		pem, err := auditor.AuditKeys(ctx)
		must(t, err)
		known, err := checkpoint.ParseKeys(pem)
		must(t, err)
		file, err := auditor.AuditProof(ctx, r.Seq)
		must(t, err)
		p, err := verify.ParseProof(file)
		must(t, err)
		rec, c, err := p.Check(known)
		if leaf := merkle.LeafHash(p.Line); err != nil || rec.Action != "sign" || string(leaf[:]) != string(r.Leaf) || c.Size < 3*api.MaxBatch {
			t.Errorf("%s: the proof of the receipt %+v is of %+v, %v", when, r, rec, err)
		}
		if kept, err := os.ReadFile(g.path("audit-keys.pem")); err != nil || string(kept) != string(pem) {
			t.Errorf("%s: the gateway shows other keys than it keeps: %s, %v", when, pem, err)
		}
		var seen []uint64
		for rec, err := range auditor.AuditRecords(ctx, api.AuditQuery{KeyID: "payments.v1", Action: "sign", Limit: 700}) {
			must(t, err)
			seen = append(seen, rec.Seq)
		}
		if len(seen) != 1+3*api.MaxBatch || seen[len(seen)-1] != r.Seq {
			t.Errorf("%s: %d signatures are found", when, len(seen))
		}
	}
	check("at once")
	g.stop()
	g.start()
	check("after a restart")
	var done struct {
		Archived []any `json:"archived"`
	}
	must(t, json.Unmarshal([]byte(g.keyhole(admin, "audit", "archive", g.path("audit"), "--key", g.path("audit-keys.pem"), "-o", "json")), &done))
	if len(done.Archived) == 0 {
		t.Fatal("no segment was archived")
	}
	check("after compression")

	proof := filepath.Join(t.TempDir(), "proof")
	g.keyhole(admin, "audit", "prove", strconv.FormatUint(r.Seq, 10), "-O", proof)
	g.keyhole(admin, "audit", "verify-proof", proof, "--key", g.path("audit-keys.pem"))
	g.keyhole(admin, "audit", "archive", g.path("audit"), "--key", g.path("audit-keys.pem"), "--to", t.TempDir())
	if s := g.cli(admin, "audit", "prove", strconv.FormatUint(r.Seq, 10)); s.code != 5 {
		t.Errorf("of what was moved away: status %d, %s", s.code, s.errOut)
	}
	g.stop()
	g.whole()
}
