package rest_test

import (
	"crypto/ecdsa"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"

	"keyhole/gateway/api"
)

func TestConditionalGet(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent, admin := s.as(t, "agent"), s.as(t, "admin")
	for _, path := range []string{"/v1/keys", "/v1/keys?limit=5", "/v1/keys/payments", "/v1/jwks.json", "/v1/keys/payments/jwks.json", "/v1/status.json", "/v1/keys/payments/status.json", "/v1/openapi.yaml"} {
		first := agent.get(path).want(200)
		tag := first.header.Get("ETag")
		if len(tag) < 20 || strings.HasPrefix(tag, "W/") {
			t.Errorf("%s: ETag %q", path, tag)
		}
		for _, condition := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
			res := agent.set("If-None-Match", condition).get(path).want(304)
			if res.header.Get("ETag") != tag || len(res.body) != 0 || res.header.Get("Cache-Control") != first.header.Get("Cache-Control") {
				t.Errorf("%s with %s: %v", path, condition, res.header)
			}
			if res.header.Get("Cache-Control") == "no-store" {
				t.Errorf("%s may not be kept", path)
			}
		}
		agent.set("If-None-Match", `"other"`).get(path).want(200)
	}
	tag := agent.get("/v1/keys/payments").header.Get("ETag")
	admin.post("/v1/admin/keys/payments/rotate", `{}`).want(202)
	if res := agent.set("If-None-Match", tag).get("/v1/keys/payments").want(200); res.header.Get("ETag") == tag {
		t.Error("the ETag survived a rotation")
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	admin.post("/v1/admin/keys/payments/rotate", `{"reason":"deployment","algorithm":"ES384"}`).want(202)
	k := read[api.Key](admin.get("/v1/keys/payments").want(200))
	if k.ActiveVersion != 2 || len(k.Versions) != 2 || k.Versions[0].Algorithm != "ES384" || k.Versions[1].State != "deactivated" || !k.Versions[0].HSM.NeverExtractable || k.Versions[1].PublicKey == "" {
		t.Errorf("%+v", k)
	}
	if secret := read[api.Key](admin.get("/v1/keys/orders").want(200)); secret.Versions[0].JWK != nil || secret.Versions[0].PublicKey != "" {
		t.Errorf("a secret key: %+v", secret)
	}
	var names []string
	for next := ""; ; {
		path := "/v1/keys?limit=1"
		if next != "" {
			path += "&after=" + next
		}
		page := read[api.KeyList](admin.get(path).want(200))
		for _, k := range page.Keys {
			names = append(names, k.Name)
		}
		if next = page.Next; next == "" {
			break
		}
	}
	if strings.Join(names, " ") != "hidden orders payments" {
		t.Errorf("the pages hold %v", names)
	}
}

func TestJWKS(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.as(t, "admin").post("/v1/admin/keys", `{"name":"open","algorithm":"EdDSA"}`).want(201)
	res := s.as(t, "agent").get("/v1/jwks.json").want(200)
	if got := res.header.Get("Content-Type"); got != "application/jwk-set+json" {
		t.Errorf("the type is %q", got)
	}
	if got := res.header.Get("Cache-Control"); got != "private, max-age=60" {
		t.Errorf("it may be kept by %q", got)
	}
	// An independent implementation reads it.
	var set jwkset.JWKSMarshal
	must(t, json.Unmarshal(res.body, &set))
	kids := map[string]bool{}
	for _, marshalled := range set.Keys {
		jwk, err := jwkset.NewJWKFromMarshal(marshalled, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		must(t, err)
		kids[jwk.Marshal().KID] = true
		if jwk.Marshal().KID == "payments.v1" {
			if _, ok := jwk.Key().(*ecdsa.PublicKey); !ok {
				t.Errorf("payments is a %T", jwk.Key())
			}
		}
	}
	if len(kids) != 2 || !kids["payments.v1"] || !kids["open.v1"] {
		t.Errorf("the set holds %v", kids)
	}
	nobody := s.nobody(t)
	if got := nobody.get("/v1/keys/open/jwks.json").want(200).header.Get("Cache-Control"); got != "public, max-age=60" {
		t.Errorf("it may be kept by %q", got)
	}
	nobody.get("/v1/keys/payments/jwks.json").refused(401, "unauthenticated")
	nobody.get("/v1/keys/nosuch/jwks.json").refused(401, "unauthenticated")
	nobody.get("/v1/jwks.json").refused(401, "unauthenticated")
	s.as(t, "other").get("/v1/jwks.json").refused(403, "forbidden")
	nobody.set("Authorization", "Bearer x").get("/v1/keys/open/jwks.json").refused(401, "unauthenticated")
}

// What has become of a version can be asked by those who hold its public
// key, and is not kept.
func TestStatus(t *testing.T) {
	t.Parallel()
	s := start(t)
	admin := s.as(t, "admin")
	admin.post("/v1/admin/keys", `{"name":"open","algorithm":"EdDSA"}`).want(201)
	admin.rotate("open")
	admin.post("/v1/admin/keys/open/versions/1/revoke", `{}`).want(200)
	res := s.nobody(t).get("/v1/keys/open/status.json").want(200)
	set := read[api.StatusSet](res)
	if len(set.Keys) != 2 || set.Keys[0].KeyID != "open.v2" || set.Keys[0].State != "active" || set.Keys[1].State != "compromised" || set.Keys[1].RevokedAt.IsZero() {
		t.Errorf("%+v", set)
	}
	if got := res.header.Get("Cache-Control"); got != "public, no-cache" {
		t.Errorf("it may be kept by %q", got)
	}
	all := read[api.StatusSet](s.as(t, "agent").get("/v1/status.json").want(200))
	if len(all.Keys) != 3 {
		t.Errorf("of all: %+v", all)
	}
	s.nobody(t).get("/v1/keys/payments/status.json").refused(401, "unauthenticated")
	s.nobody(t).get("/v1/keys/nosuch/status.json").refused(401, "unauthenticated")
	s.nobody(t).get("/v1/status.json").refused(401, "unauthenticated")
	s.as(t, "other").get("/v1/status.json").refused(403, "forbidden")
	s.as(t, "agent").get("/v1/keys/hidden/status.json").refused(404, "key_not_found")
}

func TestOpenAPIIsServed(t *testing.T) {
	t.Parallel()
	s := start(t)
	res := s.nobody(t).get("/v1/openapi.yaml").want(200)
	if string(res.body) != api.OpenAPI() || res.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("%s: %d bytes", res.header.Get("Content-Type"), len(res.body))
	}
	if recs := s.recorded(t, res); len(recs) != 0 {
		t.Errorf("recorded %+v", recs)
	}
	s.nobody(t).set("Authorization", "Basic x").get("/v1/openapi.yaml").want(200)
}

// A JWKS is kept no longer than until the clock changes what is active.
func TestJWKSIsKeptUntilThePlannedSwitch(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	at := time.Now().Add(30 * time.Second).UTC().Format(time.RFC3339)
	if r := read[api.Rotation](s.as(t, "admin").post("/v1/admin/keys/payments/rotate", `{"activate_at":"`+at+`"}`).want(202)); r.Phase != "scheduled" {
		t.Fatalf("rotated %+v", r)
	}
	for _, path := range []string{"/v1/jwks.json", "/v1/keys/payments/jwks.json"} {
		res := agent.get(path).want(200)
		age, err := strconv.Atoi(strings.TrimPrefix(res.header.Get("Cache-Control"), "private, max-age="))
		if err != nil || age > 30 {
			t.Errorf("%s: %s", path, res.header.Get("Cache-Control"))
		}
		if set := read[api.JWKS](res); len(set.Keys) != 2 {
			t.Errorf("%s: %+v", path, set)
		}
	}
}
