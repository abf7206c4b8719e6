package verify_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"keyhole/audit/checkpoint"
	"keyhole/audit/verify"
)

func TestProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	known := checkpoint.NewKeys(w.key.Key)
	for _, seq := range []uint64{0, 1, 41, 88, 89} {
		p, err := verify.Prove(w.dir, seq, nil)
		if err != nil {
			t.Fatal(err)
		}
		file := p.Marshal()
		q, err := verify.ParseProof(file)
		if err != nil {
			t.Fatal(err)
		}
		r, c, err := q.Check(known)
		if err != nil || r.Seq != seq || c.Size != 90 {
			t.Errorf("record %d: %+v under %+v, %v", seq, r, c, err)
		}
		if !bytes.Equal(q.Marshal(), file) {
			t.Error("a proof changes on its way")
		}
		if _, _, err := q.Check(checkpoint.NewKeys(newAuditKey(t, "keyhole-audit.v1").Key)); !errors.Is(err, checkpoint.ErrUnknownKey) {
			t.Errorf("by another key: %v", err)
		}
		for i := range file { // whatever byte is changed, it proves nothing else
			bad := bytes.Clone(file)
			bad[i] ^= 1
			if q, err := verify.ParseProof(bad); err == nil {
				if r, _, err := q.Check(known); err == nil {
					t.Fatalf("byte %d changed, and it proves %+v", i, r)
				}
			}
		}
	}
	p, err := verify.Prove(w.dir, 12, w.checkpoints[2])
	if err != nil {
		t.Fatal(err)
	}
	if _, c, err := p.Check(known); err != nil || c.Size != 30 {
		t.Errorf("under the checkpoint given: %+v, %v", c, err)
	}
	if _, err := verify.Prove(w.dir, 30, w.checkpoints[2]); err == nil || !strings.Contains(err.Error(), "newer one") {
		t.Errorf("record 30 under 30 records: %v", err)
	}
	if _, err := verify.Prove(w.dir, 95, nil); err == nil {
		t.Error("a record that nobody vouches for is proved")
	}
	if _, err := verify.Prove(t.TempDir(), 0, nil); err == nil {
		t.Error("a record of no log is proved")
	}
	w.edit(func(l [][]byte) [][]byte { l[12] = bytes.Replace(l[12], []byte("payments"), []byte("x"), 1); return l })
	if _, err := verify.Prove(w.dir, 12, nil); err == nil || !strings.Contains(err.Error(), "do not agree") {
		t.Errorf("an altered record is proved: %v", err)
	}
}

func FuzzParseProof(f *testing.F) {
	w := newWorld(f)
	p, err := verify.Prove(w.dir, 41, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Marshal())
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n"))
	known := checkpoint.NewKeys(w.key.Key)
	f.Fuzz(func(t *testing.T, file []byte) {
		q, err := verify.ParseProof(file)
		if err != nil {
			if !errors.Is(err, verify.ErrMalformedProof) {
				t.Errorf("%v", err)
			}
			return
		}
		if !bytes.Equal(q.Marshal(), file) {
			t.Error("a proof changes on its way")
		}
		if r, _, err := q.Check(known); err == nil && r.Seq != 41 {
			t.Errorf("forged: %+v", r)
		}
	})
}

// BenchmarkVerify reads a log of 64 MiB.
func BenchmarkVerify(b *testing.B) {
	w := bigWorld(b, 160_000)
	b.ResetTimer()
	for b.Loop() {
		r := w.verify(nil)
		if len(r.Findings) != 0 {
			b.Fatal(r.Findings)
		}
		b.SetBytes(r.Bytes)
	}
}
