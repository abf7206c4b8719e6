package rest_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"keyhole/audit"
	"keyhole/audit/checkpoint"
	"keyhole/audit/merkle"
	"keyhole/audit/verify"
	"keyhole/gateway/api"
	"keyhole/gateway/rest"
)

// receiptOf reads the receipt of an answer; ok is false if it has none.
func receiptOf(t *testing.T, r *response) (seq uint64, count int, leaf []byte, ok bool) {
	t.Helper()
	text := r.header.Get("Keyhole-Receipt")
	if applied := r.header.Get("Preference-Applied"); (applied == "receipt") != (text != "") || applied != "" && applied != "receipt" {
		t.Errorf("%s: Preference-Applied %q, Keyhole-Receipt %q", r.what, applied, text)
	}
	if text == "" {
		return 0, 0, nil, false
	}
	var encoded string
	count = 1
	if _, err := fmt.Sscanf(text, "seq=%d; leaf=%s", &seq, &encoded); err != nil {
		if _, err := fmt.Sscanf(text, "seq=%d; count=%d; leaf=%s", &seq, &count, &encoded); err != nil {
			t.Fatalf("%s: %q", r.what, text)
		}
	}
	leaf, err := base64.StdEncoding.DecodeString(encoded)
	must(t, err)
	return seq, count, leaf, true
}

// proved checks the proof of a record with public keys alone.
func (s *site) proved(t *testing.T, auditor *caller, seq uint64) (*verify.Proof, audit.Record) {
	t.Helper()
	known, err := checkpoint.ParseKeys(s.nobody(t).get("/v1/audit-keys.pem").want(200).body)
	must(t, err)
	p, err := verify.ParseProof(auditor.get(fmt.Sprintf("/v1/admin/audit/proof/%d", seq)).want(200).body)
	must(t, err)
	r, _, err := p.Check(known)
	must(t, err)
	return p, r
}

// Whoever asks for a receipt can have it proved later that what it did is in
// the log, whatever came of it.
func TestReceipts(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent, admin := s.as(t, "agent").set("Prefer", "receipt"), s.as(t, "admin").set("Prefer", `respond-async, Receipt; a="b,c"`)
	type want struct {
		r       *response
		count   int
		action  string
		outcome string
	}
	var done []want
	sign := agent.post("/v1/keys/payments/sign", `{"payload":"aGk="}`).want(200)
	done = append(done, want{sign, 1, "sign", "ok"},
		want{agent.post("/v1/keys/payments/sign/batch", `{"items":[{"payload":"aGk="},{"payload":"aGk=","format":"x"},{"payload":""}]}`).want(200), 3, "sign", "ok"},
		want{agent.post("/v1/keys/hidden/sign", `{"payload":"aGk="}`).want(404), 1, "sign", "denied"},
		want{agent.post("/v1/keys/payments/sign", `{`).want(400), 1, "sign", "error"},
		want{agent.get("/v1/nothing").want(404), 1, "unmatched", "error"},
		want{agent.get("/v1/keys/payments").want(200), 1, "read", "ok"},
		want{agent.do("PUT", "/v1/subscriptions/payments", strings.NewReader("{}")).want(200), 1, "subscribe", "ok"},
		want{agent.do("DELETE", "/v1/subscriptions/payments", nil).want(204), 1, "subscribe", "ok"},
		want{admin.post("/v1/admin/keys", `{"name":"new","algorithm":"ES256"}`).want(201), 1, "create-key", "ok"},
		want{admin.post("/v1/admin/keys/payments/rotate", `{}`).want(202), 1, "rotate", "ok"},
		want{admin.post("/v1/admin/keys/new/versions/1/suspend", `{}`).want(200), 1, "suspend", "ok"},
		want{admin.get("/v1/admin/audit?limit=1").want(200), 1, "read-audit", "ok"},
	)
	once := admin.set("Idempotency-Key", "k1")
	first, again := once.post("/v1/admin/keys/new/versions/1/resume", `{}`).want(200), once.post("/v1/admin/keys/new/versions/1/resume", `{}`).want(200)
	done = append(done, want{first, 1, "resume", "ok"}, want{again, 1, "resume", "ok"})
	admin.get("/v1/admin/audit/checkpoint?fresh=true").want(200)
	seen := map[uint64]bool{}
	for _, w := range done {
		seq, count, leaf, ok := receiptOf(t, w.r)
		if !ok || count != w.count {
			t.Errorf("%s: receipt %v for %d records", w.r.what, w.r.header["Keyhole-Receipt"], count)
			continue
		}
		if seen[seq] {
			t.Errorf("%s: the receipt of another request", w.r.what)
		}
		seen[seq] = true
		p, r := s.proved(t, admin, seq)
		if h := merkle.LeafHash(p.Line); string(leaf) != string(h[:]) {
			t.Errorf("%s: the leaf is %x, want %x", w.r.what, leaf, h)
		}
		if r.RequestID != w.r.header.Get("X-Request-Id") || r.Action != w.action || r.Outcome != w.outcome {
			t.Errorf("%s: the receipt is of %+v", w.r.what, r)
		}
		if w.r.header.Get("Vary") != "Prefer" {
			t.Errorf("%s: Vary %q", w.r.what, w.r.header.Get("Vary"))
		}
	}
}

// Who does not ask gets none, and strangers never do.
func TestNoReceipts(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent := s.as(t, "agent")
	for _, prefer := range []string{"", "respond-async", "receipts", `x="a, receipt"`, "x=receipt", "receipt=no", `x="a\", receipt"`} {
		c := agent
		if prefer != "" {
			c = agent.set("Prefer", prefer)
		}
		if _, _, _, ok := receiptOf(t, c.post("/v1/keys/payments/sign", `{"payload":"aGk="}`).want(200)); ok {
			t.Errorf("Prefer: %s brings a receipt", prefer)
		}
	}
	for _, prefer := range []string{"receipt", `x="a\", b", RECEIPT`, `receipt=""`, "receipt;x=1"} {
		if _, _, _, ok := receiptOf(t, agent.set("Prefer", prefer).post("/v1/keys/payments/sign", `{"payload":"aGk="}`).want(200)); !ok {
			t.Errorf("Prefer: %s brings no receipt", prefer)
		}
	}
	if _, _, _, ok := receiptOf(t, agent.set("Prefer", "respond-async").set("Prefer", "receipt").post("/v1/keys/payments/sign", `{"payload":"aGk="}`).want(200)); !ok {
		t.Error("the second Prefer header brings no receipt")
	}
	stranger := s.nobody(t).set("Prefer", "receipt")
	for _, r := range []*response{
		stranger.post("/v1/keys/payments/sign", `{"payload":"aGk="}`).want(401), stranger.get("/v1/keys/open/jwks.json").want(401),
		stranger.set("Authorization", "Bearer x").get("/v1/keys").want(401), stranger.set("Authorization", "Basic x").get("/v1/keys").want(401),
		stranger.get("/v1/audit-keys.pem").want(200), agent.set("Prefer", "receipt").get("/v1/whoami").want(200),
	} {
		if _, _, _, ok := receiptOf(t, r); ok {
			t.Errorf("%s brings a receipt", r.what)
		}
	}
}

// A stream carries the receipt of its beginning, and outlives the time that
// other requests have.
func TestReceiptOfAStream(t *testing.T) {
	t.Parallel()
	s := start(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/events", nil)
	must(t, err)
	req.Header = s.as(t, "agent").set("Prefer", "receipt").header
	res, err := s.client.Do(req)
	must(t, err)
	defer res.Body.Close()
	r := &response{t: t, header: res.Header, what: "GET /v1/events"}
	seq, _, _, ok := receiptOf(t, r)
	if recs := s.recorded(t, r); !ok || len(recs) != 1 || recs[0].Seq != seq {
		t.Errorf("receipt %v of %d, recorded %+v", ok, seq, recs)
	}
}

// The log is searched newest first, page by page, and reading it is recorded.
func TestSearchTheAuditLog(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent, admin := s.as(t, "agent"), s.as(t, "admin")
	for range 5 {
		agent.post("/v1/keys/payments/sign", `{"payload":"aGk="}`).want(200)
		agent.post("/v1/keys/orders/encrypt", `{"plaintext":"aGk="}`).want(200)
	}
	denied := agent.post("/v1/keys/hidden/sign", `{"payload":"aGk="}`).want(404)
	all := s.records(t)
	search := func(query url.Values) []api.AuditRecord {
		t.Helper()
		var found []api.AuditRecord
		for {
			page := read[api.AuditList](admin.get("/v1/admin/audit?" + query.Encode()).want(200))
			found = append(found, page.Records...)
			if page.Next == 0 {
				return found
			}
			query.Set("before", fmt.Sprint(page.Next))
		}
	}
	before := fmt.Sprint(len(all))
	for what, tt := range map[string]struct {
		query url.Values
		means func(audit.Record) bool
	}{
		"all":       {url.Values{"limit": {"3"}}, func(audit.Record) bool { return true }},
		"key":       {url.Values{"key": {"payments"}, "limit": {"2"}}, func(r audit.Record) bool { return r.Key == "payments" }},
		"kid":       {url.Values{"kid": {"orders.v1"}}, func(r audit.Record) bool { return r.KeyID == "orders.v1" }},
		"principal": {url.Values{"principal": {"jwt:corp:agent"}}, func(r audit.Record) bool { return r.Principal == "jwt:corp:agent" }},
		"action":    {url.Values{"action": {"sign"}, "outcome": {"denied"}}, func(r audit.Record) bool { return r.Action == "sign" && r.Outcome == "denied" }},
		"request":   {url.Values{"request": {denied.header.Get("X-Request-Id")}}, func(r audit.Record) bool { return r.RequestID == denied.header.Get("X-Request-Id") }},
		"time": {url.Values{"since": {all[3].Time.Format("2006-01-02T15:04:05.999999999Z07:00")}, "until": {all[9].Time.Format("2006-01-02T15:04:05.999999999Z07:00")}},
			func(r audit.Record) bool { return !r.Time.Before(all[3].Time) && r.Time.Before(all[9].Time) }},
	} {
		tt.query.Set("before", before)
		var want, got []uint64
		for _, r := range slices.Backward(all) {
			if tt.means(r) {
				want = append(want, r.Seq)
			}
		}
		for _, r := range search(tt.query) {
			got = append(got, r.Seq)
			if in := all[r.Seq]; r.RequestID != in.RequestID || !r.Time.Equal(in.Time) || r.Action != in.Action || r.Duration != uint64(in.Duration) || !slices.Equal(r.Policies, in.Policies) {
				t.Errorf("%s: shown as %+v, want %+v", what, r, in)
			}
		}
		if len(want) == 0 || !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	res := admin.get("/v1/admin/audit?key=payments&outcome=denied").want(200)
	if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Action != "read-audit" || recs[0].Details["key"] != "payments" || recs[0].Details["outcome"] != "denied" {
		t.Errorf("recorded: %+v", recs)
	}
	for _, query := range []string{
		"limit=0", "limit=1001", "before=0", "before=x", "before=-1", "since=yesterday", "until=2026", "key=", "action=" + strings.Repeat("a", 1025),
	} {
		admin.get("/v1/admin/audit?"+query).refused(422, "invalid_argument")
	}
	admin.get("/v1/admin/audit?node=x").refused(400, "malformed_request")
}

// Only who may read the log does; the public keys are for everybody.
func TestTheAuditLogIsNotForEverybody(t *testing.T) {
	t.Parallel()
	s := start(t)
	agent, admin := s.as(t, "agent"), s.as(t, "admin")
	admin.get("/v1/admin/audit/checkpoint").refused(404, "not_found")
	admin.get("/v1/admin/audit/proof/0").refused(404, "not_found")
	for _, path := range []string{"/v1/admin/audit", "/v1/admin/audit/checkpoint", "/v1/admin/audit/checkpoint?fresh=true", "/v1/admin/audit/proof/0"} {
		res := agent.get(path)
		res.refused(403, "forbidden")
		if recs := s.recorded(t, res); len(recs) != 1 || recs[0].Action != "read-audit" || recs[0].Outcome != audit.OutcomeDenied {
			t.Errorf("%s: recorded %+v", path, recs)
		}
		s.nobody(t).get(path).refused(401, "unauthenticated")
	}
	admin.get("/v1/admin/audit/checkpoint").refused(404, "not_found") // the agents' fresh ones were not made
	admin.get("/v1/admin/audit/checkpoint?fresh=yes").refused(422, "invalid_argument")
	fresh := admin.get("/v1/admin/audit/checkpoint?fresh=true").want(200)
	if last := admin.get("/v1/admin/audit/checkpoint").want(200); string(last.body) != string(fresh.body) || last.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("the last one is %q, want %q", last.body, fresh.body)
	}
	c, by, err := checkpoint.Open(fresh.body, s.voucher.Keys)
	if err != nil || by != "keyhole-audit.v1" || c.Size == 0 {
		t.Errorf("%+v by %q, %v", c, by, err)
	}
	admin.get(fmt.Sprintf("/v1/admin/audit/proof/%d", c.Size)).refused(404, "not_found")
	admin.get("/v1/admin/audit/proof/9999999999999999999").refused(404, "not_found")
	admin.get("/v1/admin/audit/proof/01").refused(404, "not_found")
	keys := s.nobody(t).get("/v1/audit-keys.pem").want(200)
	if s.nobody(t).set("If-None-Match", keys.header.Get("ETag")).get("/v1/audit-keys.pem").want(304); string(keys.body) != string(s.voucher.Keys.Marshal()) {
		t.Errorf("%s", keys.body)
	}
}

// A gateway that shows no log says so.
func TestNoAuditLog(t *testing.T) {
	t.Parallel()
	s := start(t, func(k *kit) { k.gateway.AuditLog = nil })
	admin := s.as(t, "admin")
	for _, path := range []string{"/v1/admin/audit", "/v1/admin/audit/checkpoint", "/v1/admin/audit/proof/0", "/v1/audit-keys.pem"} {
		admin.get(path).refused(404, "not_found")
	}
}

// Whatever stands around it, the preference is found, unless it is quoted.
func FuzzPrefer(f *testing.F) {
	for _, s := range []string{"", "receipt", "a=b; c", `x="a, receipt"`, `"`, `x="\"`, "receipt=1", ",,;", "receipt ;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, around string) {
		rest.PrefersReceipt([]string{around})
		if !rest.PrefersReceipt([]string{"Receipt, " + around}) || !rest.PrefersReceipt([]string{around, " receipt ; x=1"}) {
			t.Errorf("it is not found beside %q", around)
		}
		if !strings.ContainsAny(around, `"\`) && rest.PrefersReceipt([]string{`x="` + strings.ReplaceAll(around, "receipt", "") + `, receipt"`}) {
			t.Errorf("it is found within quotes: %q", around)
		}
	})
}
