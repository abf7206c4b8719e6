package marks

import (
	"testing"
	"time"

	"keyhole/keys"
)

// FuzzParse: what parse takes is what Put writes, to the byte.
func FuzzParse(f *testing.F) {
	m := keys.RevocationMark{Version: keys.VersionID{Key: "payments", Number: 3}, ObjectID: keys.ObjectID{1, 2}, RevokedAt: time.Date(2026, 11, 25, 1, 2, 3, 456000, time.UTC)}
	f.Add("payments.v3.revoked", render(m))
	f.Add("payments.v4.revoked", render(m))
	f.Add("payments.v3", render(m))
	f.Add("payments.v3.revoked", render(m)+"0")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, label, value string) {
		got, ok := parse(label, value)
		if !ok {
			if got != (keys.RevocationMark{}) {
				t.Errorf("refused, and yet %+v", got)
			}
			return
		}
		if render(got) != value || label != got.Version.String()+suffix {
			t.Errorf("%q, %q is taken for %+v", label, value, got)
		}
	})
}

func TestParse(t *testing.T) {
	t.Parallel()
	m := keys.RevocationMark{Version: keys.VersionID{Key: "payments", Number: 3}, ObjectID: keys.ObjectID{1, 2}, RevokedAt: time.Date(2026, 11, 25, 1, 2, 3, 456000, time.UTC)}
	if got, ok := parse("payments.v3.revoked", render(m)); !ok || got != m {
		t.Errorf("%q is read as %+v, %v", render(m), got, ok)
	}
	if _, ok := parse("payments.v4.revoked", render(m)); ok {
		t.Error("a mark under the label of another version is taken")
	}
}
