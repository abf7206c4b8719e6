// Package tries makes the CKA_IDs of the tries to generate one version.
//
// A token may still be at work for a process that was given up, and what it
// makes then must not be taken for what another process has made since. So
// each try has a CKA_ID of its own, and each is stored before it is used:
// only what has the one in the store is registered. The ids of one version
// differ in their last byte, which counts, so that whoever goes on knows those
// of all tries before, and can destroy what they left.
package tries

import "keyhole/keys"

// First returns the CKA_ID of the first try.
func First() keys.ObjectID {
	id := keys.NewObjectID()
	id[len(id)-1] = 0
	return id
}

// Next returns the CKA_ID of the try after that of id; false: there have been
// too many.
func Next(id keys.ObjectID) (next keys.ObjectID, ok bool) {
	last := len(id) - 1
	if id[last] == 0xff {
		return keys.ObjectID{}, false
	}
	id[last]++
	return id, true
}

// Before returns the CKA_IDs of the tries before that of id.
func Before(id keys.ObjectID) (all []keys.ObjectID) {
	last := len(id) - 1
	for n := range id[last] {
		b := id
		b[last] = n
		all = append(all, b)
	}
	return all
}

// Earlier reports whether raw is the CKA_ID of a try before that of id.
func Earlier(raw []byte, id keys.ObjectID) bool {
	last := len(id) - 1
	return len(raw) == len(id) && string(raw[:last]) == string(id[:last]) && raw[last] < id[last]
}
