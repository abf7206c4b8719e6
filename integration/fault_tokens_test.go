package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"keyhole/gateway/api"
	"keyhole/softhsm"
)

// One gateway has two tokens, and keys on both. While one of them is gone the
// keys of the other serve as ever; /readyz names the one that is not there.
func TestOneTokenOfTwoIsGone(t *testing.T) {
	t.Parallel()
	b := newBrittle(t)
	b.stop()
	second, err := softhsm.AddToken(b.dir, "second")
	must(t, err)
	b.edit("keyhole.yaml", "\nstore:\n", fmt.Sprintf("\n  - name: second\n    module: %q\n    label: second\n    pin_file: %q\n    canary_interval: 1s\n\nstore:\n",
		b.f.Path, second.PINFile))
	b.start()
	b.create("here", "ES256", 0)
	_, err = b.as(admin).CreateKey(t.Context(), api.CreateKeyRequest{Name: "there", Algorithm: "ES256", Token: "second"})
	must(t, err)
	for _, name := range []string{"here", "there"} {
		b.learn(name)
		b.sign(name).want(http.StatusOK)
	}
	b.f.Set("gone second")
	var told answer
	served := 0
	// Through some attempts to bring it back, also those that take the whole
	// module with them.
	eventually(t, "the second token is gone", func() bool {
		b.alive()
		if a := b.sign("here"); a.status != http.StatusOK {
			t.Errorf("the token that is there: %s", a.trouble())
		}
		served++
		told = b.sign("there")
		return t.Failed() || told.status != http.StatusOK && b.f.Calls("C_Finalize") > 0 && served > 50
	})
	if told.status != http.StatusServiceUnavailable || told.header.Get("Retry-After") == "" {
		t.Errorf("the token that is gone: %s", told.trouble())
	}
	status, page := b.page("/readyz")
	if status != http.StatusServiceUnavailable || !strings.Contains(page, `{"name":"hsm:second","ok":false`) || !strings.Contains(page, `{"name":"hsm:keyhole-dev","ok":true`) {
		t.Errorf("/readyz: %d %s", status, page)
	}
	b.f.Set()
	again, ready := b.recovered("there")
	t.Logf("%d signatures by the other token meanwhile, none refused; back after %s, ready after %s", served, again, ready)
	b.sign("here").want(http.StatusOK)
}
