package mqtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/mq/roster"
)

// hands is a group whose assignments the test gives out by hand. Nothing is checked: a test may well give one
// partition to two members.
type hands struct {
	epoch   int64
	members map[roster.Member]*hand
}

type hand struct {
	owned   map[mq.PartitionID]*held
	changes []mq.Assignment
	epoch   int64 // of the last assignment that it took
}

type held struct{ since, revoked int64 }

// Manual makes the test the coordinator of a group: its members get nothing but what Assign, Lose and Fail say.
// Call it before the first member joins.
func (f *Fake) Manual(group string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.group(group).hands = &hands{members: make(map[roster.Member]*hand)}
}

// Members are the client names of a group's members, in the order of joining.
func (f *Fake) Members(group string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	if g := f.groups[group]; g != nil {
		for _, m := range g.members {
			names = append(names, m.cfg.Member)
		}
	}
	return names
}

// Assign tells a member of a Manual group what it owns from now on: what is new is Added, what is missing is Revoked
// and stays the member's until its Done. It returns the assignment's epoch, and panics if there is no such member.
func (f *Fake) Assign(group, member string, owned ...mq.PartitionID) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	hs, h := f.hand(group, member)
	hs.epoch++
	a := mq.Assignment{Epoch: hs.epoch}
	for id, p := range h.owned {
		if !slices.Contains(owned, id) && p.revoked == 0 {
			p.revoked = a.Epoch
			a.Revoked = append(a.Revoked, id)
		}
	}
	for _, id := range owned {
		if h.owned[id] == nil {
			h.owned[id] = &held{since: a.Epoch}
			a.Added = append(a.Added, id)
		}
	}
	h.push(f, a)
	return a.Epoch
}

// Lose takes partitions away from a member of a Manual group at once, as when its session ran out.
func (f *Fake) Lose(group, member string, lost ...mq.PartitionID) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	hs, h := f.hand(group, member)
	hs.epoch++
	for _, id := range lost {
		delete(h.owned, id)
	}
	h.push(f, mq.Assignment{Epoch: hs.epoch, Lost: lost})
	return hs.epoch
}

// Fail ends a membership, in any group: Next and all the rest of it answer with err from now on.
func (f *Fake) Fail(group, member string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.member(group, member).err = err
	f.notify()
}

func (h *hand) push(f *Fake, a mq.Assignment) {
	for id := range h.owned {
		a.Owned = append(a.Owned, id)
	}
	for _, ids := range [][]mq.PartitionID{a.Owned, a.Added, a.Revoked, a.Lost} {
		slices.SortFunc(ids, func(a, b mq.PartitionID) int {
			if a.Topic != b.Topic {
				if a.Topic < b.Topic {
					return -1
				}
				return 1
			}
			return int(a.Index) - int(b.Index)
		})
	}
	h.changes = append(h.changes, a)
	f.notify()
}

// member finds a member by name, the newest of that name. The caller holds mu.
func (f *Fake) member(group, name string) *fakeMember {
	g := f.group(group)
	for _, m := range slices.Backward(g.members) {
		if m.cfg.Member == name {
			return m
		}
	}
	panic(fmt.Sprintf("mqtest: group %q has no member %q", group, name))
}

func (f *Fake) hand(group, member string) (*hands, *hand) {
	m := f.member(group, member)
	hs := m.group.hands
	if hs == nil {
		panic(fmt.Sprintf("mqtest: group %q is not Manual", group))
	}
	return hs, hs.of(m.id)
}

func (hs *hands) of(m roster.Member) *hand {
	h := hs.members[m]
	if h == nil {
		h = &hand{owned: make(map[mq.PartitionID]*held)}
		hs.members[m] = h
	}
	return h
}

func (hs *hands) leave(m roster.Member) { delete(hs.members, m) }

// The methods of sharing.

func (hs *hands) Next(m roster.Member, _ time.Time) (mq.Assignment, bool) {
	h := hs.of(m)
	if len(h.changes) == 0 {
		return mq.Assignment{}, false
	}
	a := h.changes[0]
	h.changes = h.changes[1:]
	h.epoch = a.Epoch
	return a, true
}

func (hs *hands) Done(m roster.Member, epoch int64) {
	h := hs.of(m)
	for id, p := range h.owned {
		if p.revoked != 0 && p.revoked <= epoch {
			delete(h.owned, id)
		}
	}
}

func (hs *hands) Owns(m roster.Member, id mq.PartitionID, epoch int64) bool {
	h := hs.of(m)
	p := h.owned[id]
	return p != nil && p.since <= epoch && epoch <= h.epoch
}

func (hs *hands) Holds(m roster.Member, id mq.PartitionID) bool {
	h := hs.of(m)
	p := h.owned[id]
	return p != nil && p.since <= h.epoch
}

func (hs *hands) Owned(m roster.Member) []mq.PartitionID {
	var ids []mq.PartitionID
	for id := range hs.of(m).owned {
		if hs.Holds(m, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (hs *hands) Expire(time.Time) bool       { return false }
func (hs *hands) Deadline() (time.Time, bool) { return time.Time{}, false }
