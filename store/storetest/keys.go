package storetest

import (
	"strings"
	"testing"
	"time"

	"keyhole/keys"
	"keyhole/store"
)

func testRoundTrip(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	at := func(n int) time.Time { return t0.Add(time.Duration(n) * time.Microsecond) }
	full := &keys.Key{
		Name: "payments", Purpose: keys.PurposeEncrypt, Algorithm: keys.RSAOAEP256, Bits: 4096,
		Description: "für Zahlungen; 'quoted' \"twice\"\n\x00 $1 ? --", Tags: map[string]string{"team": "pay", "": "empty", "ü": "'; DROP TABLE keys; --"},
		Token: "main", Epoch: 1, CreatedAt: at(1), DeleteAt: at(11),
		Policy: keys.Policy{
			Period: 720 * time.Hour, Schedule: "0 3 * * 1", MaxOperations: 1<<64 - 1, MaxBytes: 1 << 60, Announce: time.Hour + 1, Overlap: 24 * time.Hour,
			AfterOverlap: keys.OverlapDestroy, DestroyDelay: 48 * time.Hour,
			Acks: keys.Acks{Require: keys.AckQuorum, Quorum: 66, Timeout: time.Minute, OnTimeout: keys.TimeoutActivate, AbsentAfter: time.Hour},
		},
		Versions: []*keys.Version{
			{
				Number: 1, ObjectID: keys.NewObjectID(), Algorithm: keys.A256GCM, Bits: 256, Label: "old \x00 'tool'", Check: []byte{0, 1, 2}, AlwaysSensitive: true,
				ReservedAt: at(2), CreatedAt: at(3), AnnouncedAt: at(4), ActivateAt: at(5), ActivatedAt: at(12), SuspendedAt: at(6), RevokedAt: at(7),
				ArchivedAt: at(8), DestroyAt: at(9), DestroyedAt: at(10), RevokeReason: "leaked",
			},
			{
				Number: 4294967295, ObjectID: keys.NewObjectID(), Algorithm: keys.RSAOAEP, Bits: 2048, PublicKey: []byte("spki"), Check: []byte("check"),
				NeverExtractable: true, ReservedAt: time.Unix(0, 0).UTC(), CreatedAt: time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC),
				ActivateAt: time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC),
			},
		},
	}
	small := &keys.Key{Name: "a", Purpose: keys.PurposeSign, Algorithm: keys.HS512, Bits: 512, Token: "other", Epoch: 1, CreatedAt: t0}
	before := full.Clone()
	create(t, s, full, small)
	same(t, before, full) // the caller's key is left alone
	same(t, full, stored(t, s, "payments"))
	same(t, small, stored(t, s, "a"))
	all, revision := load(t, s)
	same(t, []*keys.Key{small, full}, all)
	if revision != 2 {
		t.Errorf("two commits made revision %d", revision)
	}
	for _, at := range []time.Time{all[1].CreatedAt, all[1].Versions[0].RevokedAt, all[1].Versions[1].ActivateAt} {
		if at.Location() != time.UTC {
			t.Errorf("%s is not in UTC", at)
		}
	}
	// What the store returns is the caller's own.
	mine := stored(t, s, "payments")
	mine.Tags["team"], mine.Versions[0].RevokedAt = "x", time.Time{}
	same(t, full, stored(t, s, "payments"))

	// Times finer than a microsecond are cut, in whatever zone they come.
	fine := NewKey("fine", 1)
	fine.CreatedAt = t0.Add(999 * time.Nanosecond).In(time.FixedZone("", 3600))
	create(t, s, fine)
	if got := stored(t, s, "fine").CreatedAt; !got.Equal(t0) {
		t.Errorf("stored %s, want %s", got, t0)
	}
	// Such a time is still the same one when it comes again.
	must(t, s.Commit(ctx, store.Change{Key: Step(fine, touch), FromEpoch: 1}))

	_, err := s.Key(ctx, "missing")
	detailed(t, "a missing key", err, keys.ErrKeyNotFound)
	_, err = s.Key(ctx, strings.Repeat("x", 1<<16))
	detailed(t, "a long name", err, keys.ErrKeyNotFound)
	if err != nil && len(err.Error()) > 300 {
		t.Errorf("the error repeats all of a long name: %d bytes", len(err.Error()))
	}
}

func testCreate(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	if all, revision := load(t, s); len(all) != 0 || revision != 0 {
		t.Errorf("a new store has %d keys at revision %d", len(all), revision)
	}
	create(t, s, NewKey("payments", 1))
	unchanged(t, s, "creating twice", func() {
		detailed(t, "creating twice", s.Commit(ctx, store.Change{Key: NewKey("payments", 1)}), keys.ErrKeyExists)
	})
	unchanged(t, s, "a used CKA_ID", func() {
		k := NewKey("other", 1)
		k.Versions[0].ObjectID = stored(t, s, "payments").Versions[0].ObjectID
		is(t, "a used CKA_ID", s.Commit(ctx, store.Change{Key: k}), keys.ErrInternal)
	})
	// A refused commit takes the rest of it along.
	unchanged(t, s, "a rotation of an existing key's creation", func() {
		err := s.Commit(ctx, store.Change{Key: NewKey("payments", 1), Rotation: NewRotation(id(1), "payments", 1)})
		is(t, "creating with a rotation", err, keys.ErrKeyExists)
	})
}

func testChange(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 2), NewKey("other", 1))
	other := stored(t, s, "other")
	commit(t, s, "payments", func(k *keys.Key) {
		k.Description, k.Tags, k.Policy.Period = "new", map[string]string{"a": "b"}, time.Hour
		k.Algorithm, k.Bits = keys.ES384, 384
	})
	commit(t, s, "payments", func(k *keys.Key) { k.Tags, k.Versions[0].SuspendedAt = nil, t0 })
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[0].SuspendedAt = time.Time{} })
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[0].DestroyAt = t0 })
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[0].DestroyAt = time.Time{} })
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[1].RevokedAt, k.Versions[1].RevokeReason = t0, "leaked" })
	commit(t, s, "payments", func(k *keys.Key) { k.Versions = append(k.Versions, Reserved(7)) })
	k := commit(t, s, "payments", func(k *keys.Key) { Generate(k.Versions[2], t0) })
	if k.Epoch != 9 {
		t.Errorf("the epoch is %d", k.Epoch)
	}
	same(t, other, stored(t, s, "other"))

	for _, from := range []uint64{1, 8, 10, 1 << 40} {
		unchanged(t, s, "a stale epoch", func() {
			c := k.Clone()
			c.Epoch = from + 1
			detailed(t, "a stale epoch", s.Commit(ctx, store.Change{Key: c, FromEpoch: from}), keys.ErrConflict)
		})
	}
	unchanged(t, s, "changing a missing key", func() {
		c := NewKey("missing", 1)
		c.Epoch = 2
		detailed(t, "changing a missing key", s.Commit(ctx, store.Change{Key: c, FromEpoch: 1}), keys.ErrKeyNotFound)
	})
}

// testForGood tries to undo what cannot be undone.
func testForGood(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	k := NewKey("payments", 4)
	k.Versions[1].RevokedAt = t0 // v2 is compromised
	k.Versions[2].DestroyedAt = t0
	k.Versions[2].DestroyAt = t0
	k.Versions = append(k.Versions, Reserved(5))
	k.Versions[4].DestroyedAt = t0 // an aborted rotation
	k.Versions[3].ActivatedAt = k.Versions[3].ActivateAt
	k.Versions[0].Label = "made elsewhere"
	create(t, s, k)
	for what, change := range map[string]func(k *keys.Key){
		"another purpose":                     func(k *keys.Key) { k.Purpose, k.Algorithm = keys.PurposeEncrypt, keys.A256GCM },
		"another token":                       func(k *keys.Key) { k.Token = "other" },
		"another time of creation":            func(k *keys.Key) { k.CreatedAt = t0.Add(time.Hour) },
		"no time of creation":                 func(k *keys.Key) { k.CreatedAt = time.Time{} },
		"the oldest version vanishes":         func(k *keys.Key) { k.Versions = k.Versions[1:] },
		"the latest version vanishes":         func(k *keys.Key) { k.Versions = k.Versions[:4] },
		"all versions vanish":                 func(k *keys.Key) { k.Versions = nil },
		"a version is renumbered":             func(k *keys.Key) { k.Versions[4].Number = 6 },
		"versions change places":              func(k *keys.Key) { k.Versions[0], k.Versions[1] = k.Versions[1], k.Versions[0] },
		"a version is there twice":            func(k *keys.Key) { k.Versions[1] = k.Versions[0] },
		"another CKA_ID":                      func(k *keys.Key) { k.Versions[0].ObjectID = keys.NewObjectID() },
		"another algorithm":                   func(k *keys.Key) { k.Versions[0].Algorithm = keys.ES384 },
		"another size":                        func(k *keys.Key) { k.Versions[0].Bits = 384 },
		"another time of reservation":         func(k *keys.Key) { k.Versions[0].ReservedAt = t0.Add(1000) },
		"another public key":                  func(k *keys.Key) { k.Versions[0].PublicKey = []byte("mine") },
		"no public key":                       func(k *keys.Key) { k.Versions[0].PublicKey = nil },
		"another check value":                 func(k *keys.Key) { k.Versions[0].Check = []byte("mine") },
		"extractable":                         func(k *keys.Key) { k.Versions[0].NeverExtractable = false },
		"not sensitive":                       func(k *keys.Key) { k.Versions[0].AlwaysSensitive = false },
		"generated at another time":           func(k *keys.Key) { k.Versions[0].CreatedAt = t0 },
		"not generated":                       func(k *keys.Key) { k.Versions[0].CreatedAt = time.Time{} },
		"not compromised any more":            func(k *keys.Key) { k.Versions[1].RevokedAt = time.Time{} },
		"compromised at another time":         func(k *keys.Key) { k.Versions[1].RevokedAt = t0.Add(time.Hour) },
		"compromised now, by another version": func(k *keys.Key) { k.Versions[0].RevokedAt, k.Versions[1].RevokedAt = t0, time.Time{} },
		"not destroyed any more":              func(k *keys.Key) { k.Versions[2].DestroyedAt = time.Time{} },
		"destroyed at another time":           func(k *keys.Key) { k.Versions[2].DestroyedAt = t0.Add(1000) },
		"restored behind its destruction":     func(k *keys.Key) { k.Versions[2].DestroyAt = time.Time{} },
		"another label":                       func(k *keys.Key) { k.Versions[0].Label = "" },
		"a switch is taken back":              func(k *keys.Key) { k.Versions[3].ActivatedAt = time.Time{} },
		"a switch at another time":            func(k *keys.Key) { k.Versions[3].ActivatedAt = t0 },
		"a switch that was planned later":     func(k *keys.Key) { k.Versions[3].ActivateAt = k.Versions[3].ActivateAt.Add(time.Hour) },
		"a switch that was never planned":     func(k *keys.Key) { k.Versions[3].ActivateAt = time.Time{} },
		"a switch to what is not generated": func(k *keys.Key) {
			v := Reserved(6)
			v.ActivateAt, v.ActivatedAt = t0, t0
			k.Versions = append(k.Versions, v)
		},
		"a switch to what has no time":     func(k *keys.Key) { k.Versions[0].ActivateAt, k.Versions[0].ActivatedAt = time.Time{}, t0 },
		"damaged":                          func(k *keys.Key) { k.Damaged = true },
		"a description that is no text":    func(k *keys.Key) { k.Description = "\xff" },
		"a tag that is no text":            func(k *keys.Key) { k.Tags = map[string]string{"a": "\xff"} },
		"a tag's name that is no text":     func(k *keys.Key) { k.Tags = map[string]string{"\xff": "a"} },
		"a schedule that is no text":       func(k *keys.Key) { k.Policy.Schedule = "\xff" },
		"a reason that is no text":         func(k *keys.Key) { k.Versions[0].RevokeReason = "\xff" },
		"generated behind its destruction": func(k *keys.Key) { Generate(k.Versions[4], t0) },
	} {
		unchanged(t, s, what, func() {
			next := Step(stored(t, s, "payments"), change)
			is(t, what, s.Commit(ctx, store.Change{Key: next, FromEpoch: next.Epoch - 1}), keys.ErrInternal)
		})
	}
	testObjectOfUngenerated(t, s)
	// A switch may be recorded, planned and brought forward; a key's deletion
	// ordered and called off.
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[0].ActivatedAt, k.DeleteAt = t0, t0.Add(time.Hour) })
	commit(t, s, "payments", func(k *keys.Key) { k.DeleteAt = time.Time{} })
	// A version may be compromised or destroyed once it is compromised.
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[1].DestroyAt = t0 })
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[1].DestroyedAt = t0 })
}

func testNewVersions(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	k := NewKey("payments", 1)
	k.Versions = append(k.Versions, Reserved(5))
	create(t, s, k)
	add := func(change func(v *keys.Version)) func(k *keys.Key) {
		return func(k *keys.Key) {
			v := Reserved(6)
			change(v)
			k.Versions = append(k.Versions, v)
		}
	}
	refused := map[string]func(k *keys.Key){
		"number 0":          add(func(v *keys.Version) { v.Number = 0 }),
		"a number again":    add(func(v *keys.Version) { v.Number = 5 }),
		"a number between":  add(func(v *keys.Version) { v.Number = 3 }),
		"no CKA_ID":         add(func(v *keys.Version) { v.ObjectID = keys.ObjectID{} }),
		"not reserved":      add(func(v *keys.Version) { v.ReservedAt = time.Time{} }),
		"unknown algorithm": add(func(v *keys.Version) { v.Algorithm = "none" }),
		"another purpose":   add(func(v *keys.Version) { v.Algorithm = keys.A256GCM }),
		"a used CKA_ID": func(k *keys.Key) {
			v := Reserved(6)
			v.ObjectID = k.Versions[0].ObjectID
			k.Versions = append(k.Versions, v)
		},
		"two of one number":  func(k *keys.Key) { k.Versions = append(k.Versions, Reserved(6), Reserved(6)) },
		"two in wrong order": func(k *keys.Key) { k.Versions = append(k.Versions, Reserved(7), Reserved(6)) },
	}
	for what, change := range refused {
		unchanged(t, s, what, func() {
			next := Step(stored(t, s, "payments"), change)
			is(t, what, s.Commit(ctx, store.Change{Key: next, FromEpoch: 1}), keys.ErrInternal)
		})
		unchanged(t, s, what+", in a new key", func() {
			next := NewKey("new", 5)
			change(next)
			is(t, what+", in a new key", s.Commit(ctx, store.Change{Key: next}), keys.ErrInternal)
		})
	}
	commit(t, s, "payments", func(k *keys.Key) { k.Versions = append(k.Versions, Reserved(6), Reserved(9)) })
}

func testNonsense(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 1))
	rotation := func(change func(r *keys.Rotation)) *keys.Rotation {
		r := NewRotation(id(1), "payments", 2)
		change(r)
		return r
	}
	key := func(change func(k *keys.Key)) *keys.Key { return Step(stored(t, s, "payments"), change) }
	for what, c := range map[string]store.Change{
		"nothing":                  {},
		"only an epoch":            {FromEpoch: 1},
		"only a deletion":          {Delete: true},
		"the epoch stays":          {Key: stored(t, s, "payments"), FromEpoch: 1},
		"the epoch jumps":          {Key: key(func(k *keys.Key) { k.Epoch = 3 }), FromEpoch: 1},
		"the epoch falls":          {Key: key(func(k *keys.Key) { k.Epoch = 0 }), FromEpoch: 1},
		"the last epoch":           {Key: key(func(k *keys.Key) { k.Epoch = 1 << 63 }), FromEpoch: 1<<63 - 1},
		"created and deleted":      {Key: NewKey("new", 0), Delete: true},
		"no name":                  {Key: NewKey("", 1)},
		"a bad name":               {Key: NewKey("Payments", 1)},
		"a bad name to change":     {Key: key(func(k *keys.Key) { k.Name = "a.v1" }), FromEpoch: 1},
		"an empty rotation":        {Rotation: &keys.Rotation{}},
		"a rotation without id":    {Rotation: rotation(func(r *keys.Rotation) { r.ID = "" })},
		"a rotation without phase": {Rotation: rotation(func(r *keys.Rotation) { r.Phase = "" })},
		"a rotation to nowhere":    {Rotation: rotation(func(r *keys.Rotation) { r.To = 0 })},
		"another key's rotation":   {Key: key(touch), FromEpoch: 1, Rotation: rotation(func(r *keys.Rotation) { r.Key = "other" })},
	} {
		unchanged(t, s, what, func() { is(t, what, s.Commit(ctx, c), keys.ErrInternal) })
	}
}

// testDelete: the first version was never made, the name is free again.
func testDelete(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	k := NewKey("payments", 0)
	k.Versions = []*keys.Version{Reserved(1)}
	r := NewRotation(id(1), "payments", 1)
	must(t, s.Commit(ctx, store.Change{Key: k, Rotation: r}))

	unchanged(t, s, "deleting at another epoch", func() {
		detailed(t, "deleting at another epoch", s.Commit(ctx, store.Change{Key: k, FromEpoch: 2, Delete: true}), keys.ErrConflict)
	})
	unchanged(t, s, "deleting with an open rotation", func() {
		detailed(t, "deleting with an open rotation", s.Commit(ctx, store.Change{Key: k, FromEpoch: 1, Delete: true}), keys.ErrRotationRunning)
	})
	unchanged(t, s, "deleting what is missing", func() {
		detailed(t, "deleting what is missing", s.Commit(ctx, store.Change{Key: NewKey("missing", 0), FromEpoch: 1, Delete: true}), keys.ErrKeyNotFound)
	})
	aborted := *r
	aborted.Phase, aborted.CompletedAt, aborted.Error = keys.PhaseAborted, t0, "no"
	must(t, s.Commit(ctx, store.Change{Key: k, FromEpoch: 1, Delete: true, Rotation: &aborted}))
	_, err := s.Key(ctx, "payments")
	is(t, "a deleted key", err, keys.ErrKeyNotFound)
	if all, _ := load(t, s); len(all) != 0 {
		t.Errorf("%d keys are left", len(all))
	}
	got, err := s.Rotation(ctx, r.ID) // the history stays
	must(t, err)
	same(t, &aborted, got)

	again := NewKey("payments", 0)
	again.Versions = []*keys.Version{Reserved(1)}
	r2 := NewRotation(id(2), "payments", 1)
	must(t, s.Commit(ctx, store.Change{Key: again, Rotation: r2}))
	same(t, again, stored(t, s, "payments"))
	unchanged(t, s, "deleting twice", func() {
		is(t, "deleting with the old rotation", s.Commit(ctx, store.Change{Key: k, FromEpoch: 1, Delete: true, Rotation: &aborted}), keys.ErrConflict)
	})
	// Once it is generated it is there to stay.
	made := commit(t, s, "payments", func(k *keys.Key) { Generate(k.Versions[0], t0) })
	unchanged(t, s, "deleting a generated key", func() {
		aborted := *r2
		aborted.Phase = keys.PhaseAborted
		is(t, "deleting a generated key", s.Commit(ctx, store.Change{Key: made, FromEpoch: made.Epoch, Delete: true, Rotation: &aborted}), keys.ErrInternal)
		lie := made.Clone() // what counts is what is stored
		lie.Versions[0].CreatedAt = time.Time{}
		is(t, "deleting under a pretext", s.Commit(ctx, store.Change{Key: lie, FromEpoch: made.Epoch, Delete: true, Rotation: &aborted}), keys.ErrInternal)
	})
}

// testRetire: all versions are destroyed, the name never comes back.
func testRetire(t *testing.T, open func() store.Store) {
	ctx, s := start(t, open)
	create(t, s, NewKey("payments", 2))
	commit(t, s, "payments", func(k *keys.Key) { k.Versions[0].DestroyedAt = t0 })
	unchanged(t, s, "one version is left", func() {
		is(t, "one version is left", s.Commit(ctx, store.Change{Key: stored(t, s, "payments"), FromEpoch: 2, Delete: true}), keys.ErrInternal)
	})
	commit(t, s, "payments", func(k *keys.Key) { k.Versions = append(k.Versions, Reserved(3)) })
	k := commit(t, s, "payments", func(k *keys.Key) { k.Versions[1].DestroyedAt = t0 })
	must(t, s.Commit(ctx, store.Change{Key: k, FromEpoch: k.Epoch, Delete: true}))
	_, err := s.Key(ctx, "payments")
	is(t, "a deleted key", err, keys.ErrKeyNotFound)
	for range 2 {
		unchanged(t, s, "a retired name", func() {
			detailed(t, "a retired name", s.Commit(ctx, store.Change{Key: NewKey("payments", 1)}), keys.ErrKeyRetired)
		})
	}
	create(t, s, NewKey("payments-2", 1))
	must(t, s.Close())
	s2 := open()
	defer s2.Close()
	detailed(t, "a retired name after a restart", s2.Commit(ctx, store.Change{Key: NewKey("payments", 1)}), keys.ErrKeyRetired)
}

// testObjectOfUngenerated: a version that was never generated may get another
// CKA_ID, and nothing else with it.
func testObjectOfUngenerated(t *testing.T, s store.Store) {
	t.Helper()
	k := NewKey("reserved", 1)
	k.Versions = append(k.Versions, Reserved(2))
	create(t, s, k)
	commit(t, s, "reserved", func(k *keys.Key) { k.Versions[1].ObjectID = keys.NewObjectID() })
	for what, change := range map[string]func(v *keys.Version){
		"none":            func(v *keys.Version) { v.ObjectID = keys.ObjectID{} },
		"generated":       func(v *keys.Version) { Generate(v, t0) },
		"revoked":         func(v *keys.Version) { v.RevokedAt = t0 },
		"destroyed":       func(v *keys.Version) { v.DestroyedAt = t0 },
		"relabelled":      func(v *keys.Version) { v.Label = "x" },
		"reserved later":  func(v *keys.Version) { v.ReservedAt = v.ReservedAt.Add(time.Second) },
		"an old object's": func(v *keys.Version) { v.ObjectID = k.Versions[0].ObjectID },
	} {
		unchanged(t, s, what, func() {
			next := Step(stored(t, s, "reserved"), func(k *keys.Key) {
				k.Versions[1].ObjectID = keys.NewObjectID()
				change(k.Versions[1])
			})
			is(t, "another CKA_ID, and "+what, s.Commit(t.Context(), store.Change{Key: next, FromEpoch: next.Epoch - 1}), keys.ErrInternal)
		})
	}
	commit(t, s, "reserved", func(k *keys.Key) { Generate(k.Versions[1], t0) })
	next := Step(stored(t, s, "reserved"), func(k *keys.Key) { k.Versions[1].ObjectID = keys.NewObjectID() })
	is(t, "another CKA_ID of a generated version", s.Commit(t.Context(), store.Change{Key: next, FromEpoch: next.Epoch - 1}), keys.ErrInternal)
	commit(t, s, "reserved", func(k *keys.Key) { k.Versions = append(k.Versions, Reserved(3)) })
	gone := commit(t, s, "reserved", func(k *keys.Key) { k.Versions[2].DestroyedAt = t0 })
	next = Step(gone, func(k *keys.Key) { k.Versions[2].ObjectID = keys.NewObjectID() })
	is(t, "another CKA_ID of an aborted version", s.Commit(t.Context(), store.Change{Key: next, FromEpoch: gone.Epoch}), keys.ErrInternal)
}
