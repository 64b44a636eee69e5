package mqtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

var groupCases = []testCase{
	{"AMemberOwnsEverything", memberOwnsAll},
	{"GroupsStartWhereTheyAreTold", groupsStart},
	{"CommitsComeBack", commitsComeBack},
	{"CommitsOfManyPartitions", commitsOfMany},
	{"AMapOverTheLimitIsRefused", mapTooLarge},
	{"WhatIsNotOwnedIsFenced", notOwnedIsFenced},
	{"TwoMembersShareAndHandOver", twoMembersShare},
	{"AMemberThatLeavesIsReplaced", leaverReplaced},
	{"NewPartitionsAreAdded", partitionsAdded},
	{"NextEndsWithItsContext", nextContext},
}

// member follows a membership in the background: it keeps what it owns, commits what is revoked and is done with it.
type member struct {
	s      *suite
	name   string
	owners *sync.Map // partition -> *member, shared by the members of a group
	g      mq.Group
	cancel context.CancelFunc
	ended  chan struct{}

	mu    sync.Mutex // guards the rest
	epoch int64
	owned map[mq.PartitionID]bool
	// marks are committed for revoked partitions before Done.
	marks map[mq.PartitionID]mq.Commit
	// last is the epoch in which a partition was revoked.
	last map[mq.PartitionID]int64
	err  error
}

// join makes a member; owners, shared among the members of a group, finds partitions with two owners.
func (s *suite) join(group string, owners *sync.Map, cfg mq.GroupConfig) *member {
	s.Helper()
	cfg.Group = group
	if cfg.Member == "" {
		cfg.Member = "mqtest"
	}
	g, err := s.d.Group(s.ctx, cfg)
	if err != nil {
		s.Fatalf("join %s: %v", group, err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	m := &member{
		s: s, name: cfg.Member, owners: owners, g: g, cancel: cancel, ended: make(chan struct{}), owned: make(map[mq.PartitionID]bool),
		marks: make(map[mq.PartitionID]mq.Commit), last: make(map[mq.PartitionID]int64),
	}
	go m.follow(ctx)
	s.Cleanup(func() { m.leave() })
	return m
}

func (m *member) follow(ctx context.Context) {
	defer close(m.ended)
	for {
		a, err := m.g.Next(ctx)
		if err != nil {
			m.mu.Lock()
			m.err = err
			m.mu.Unlock()
			return
		}
		m.take(a)
		if len(a.Revoked) > 0 {
			m.handOver(a)
		}
	}
}

func (m *member) take(a mq.Assignment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.Epoch <= m.epoch {
		m.s.Errorf("%s: epoch %d after %d", m.name, a.Epoch, m.epoch)
	}
	m.epoch = a.Epoch
	for _, p := range a.Lost {
		delete(m.owned, p)
		m.owners.CompareAndDelete(p, m)
	}
	for _, p := range a.Added {
		if other, taken := m.owners.LoadOrStore(p, m); taken && other != m {
			m.s.Errorf("%s: partition %s added while %s owns it", m.name, p, other.(*member).name)
		}
		m.owned[p] = true
	}
	got := make(map[mq.PartitionID]bool)
	for _, p := range a.Owned {
		got[p] = true
	}
	if !maps.Equal(got, m.owned) {
		m.s.Errorf("%s: owned is %v, what was added and lost makes %v", m.name, a.Owned, m.owned)
	}
}

func (m *member) handOver(a mq.Assignment) {
	cs := make(map[mq.PartitionID]mq.Commit)
	m.mu.Lock()
	for _, p := range a.Revoked {
		if c, ok := m.marks[p]; ok {
			cs[p] = c
		}
	}
	m.mu.Unlock()
	for p, err := range m.g.Commit(m.s.ctx, a.Epoch, cs) {
		m.s.Errorf("%s: commit of the revoked partition %s before Done: %v", m.name, p, err)
	}
	m.mu.Lock()
	for _, p := range a.Revoked {
		delete(m.owned, p)
		m.last[p] = a.Epoch
		m.owners.CompareAndDelete(p, m)
	}
	m.mu.Unlock()
	m.g.Done(a.Epoch)
}

func (m *member) leave() {
	_, owned := m.state()
	for p := range owned {
		m.owners.CompareAndDelete(p, m)
	}
	// Some drivers' Close waits for Next, some end it: both have to work.
	if err := m.g.Close(m.s.ctx); err != nil && !errors.Is(err, mq.Closed) {
		m.s.Errorf("%s: close: %v", m.name, err)
	}
	m.cancel()
	<-m.ended
}

// state is the current epoch and what is owned.
func (m *member) state() (int64, map[mq.PartitionID]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch, maps.Clone(m.owned)
}

// owns waits until the member owns n partitions and returns the epoch and the partitions.
func (m *member) owns(n int) (int64, map[mq.PartitionID]bool) {
	m.s.Helper()
	m.s.await(fmt.Sprintf("%s owns %d partitions", m.name, n), func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.err != nil {
			return m.err
		}
		if len(m.owned) != n {
			return fmt.Errorf("it owns %d", len(m.owned))
		}
		return nil
	})
	return m.state()
}

// committed reads the group's positions of some partitions.
func (m *member) committed(ps ...mq.PartitionID) map[mq.PartitionID]mq.Commit {
	m.s.Helper()
	cs, err := m.g.Committed(m.s.ctx, ps)
	if err != nil {
		m.s.Fatalf("%s: committed: %v", m.name, err)
	}
	for _, p := range ps {
		if _, ok := cs[p]; !ok {
			m.s.Fatalf("%s: committed has nothing for %s: %v", m.name, p, cs)
		}
	}
	return cs
}

// commit stores positions, all of which have to be taken.
func (m *member) commit(epoch int64, cs map[mq.PartitionID]mq.Commit) {
	m.s.Helper()
	for p, err := range m.g.Commit(m.s.ctx, epoch, cs) {
		m.s.Fatalf("%s: commit of %s: %v", m.name, p, err)
	}
}

func memberOwnsAll(s *suite) {
	a, b := s.topic(3), s.topic(2)
	all := append(s.partitions(a), s.partitions(b)...)
	m := s.join(s.name(), new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{a, b}})
	_, owned := m.owns(len(all))
	for i, p := range all {
		if !owned[p] {
			s.Errorf("partition %s of %s is not owned", p, p.Topic)
		}
		s.put(p, text(fmt.Sprint(i)))
		s.same(s.read(m.g, p, 0, 1), []mq.Record{text(fmt.Sprint(i))})
	}
}

func groupsStart(s *suite) {
	p := s.one()
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i := range 6 {
		s.put(p, mq.Record{Body: []byte("x"), Timestamp: base.Add(time.Duration(i) * time.Minute)})
	}
	starts := map[string]struct {
		start map[mq.Topic]mq.Start
		want  int64
	}{
		"unstated": {nil, 0},
		"earliest": {map[mq.Topic]mq.Start{p.Topic: {At: mq.Earliest}}, 0},
		"latest":   {map[mq.Topic]mq.Start{p.Topic: {At: mq.Latest}}, 6},
	}
	if s.caps.TimeLookup {
		at := starts["unstated"]
		at.start, at.want = map[mq.Topic]mq.Start{p.Topic: {At: mq.AtTime, Time: base.Add(150 * time.Second)}}, 3
		starts["time"] = at
	}
	for name, c := range starts {
		group := s.name()
		n := len(s.partitions(p.Topic))
		m := s.join(group, new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{p.Topic}, Start: c.start})
		m.owns(n)
		if got := m.committed(p)[p].Offset; got != c.want {
			s.Errorf("start %s: at %d, want %d", name, got, c.want)
		}
		m.leave()
		// The position was committed: what is produced now does not move a later joiner with another start.
		m = s.join(group, new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{p.Topic}, Start: map[mq.Topic]mq.Start{p.Topic: {At: mq.Latest}}})
		m.owns(n)
		if got := m.committed(p)[p].Offset; got != c.want {
			s.Errorf("start %s: a later joiner begins at %d, want %d", name, got, c.want)
		}
		m.leave()
	}
}

func commitsComeBack(s *suite) {
	p := s.one()
	s.put(p, text("0"), text("1"), text("2"))
	group := s.name()
	m := s.join(group, new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{p.Topic}})
	epoch, _ := m.owns(len(s.partitions(p.Topic)))
	want := []mq.Commit{{Offset: 1}, {Offset: 2, Map: "AQIDBA=="}, {Offset: 3, Map: strings.Repeat("M", s.caps.CommitMetadata)}, {Offset: 3}}
	for _, c := range want {
		if s.caps.CommitMetadata == 0 {
			c.Map = ""
		}
		m.commit(epoch, map[mq.PartitionID]mq.Commit{p: c})
		if got := m.committed(p)[p]; got != c {
			s.Errorf("committed %d with %d bytes, got %d with %d", c.Offset, len(c.Map), got.Offset, len(got.Map))
		}
		cs, err := s.d.Admin().GroupOffsets(s.ctx, group)
		if err != nil || cs[p] != c {
			s.Errorf("the admin reads %v, %v; want %d with %d bytes", cs[p].Offset, err, c.Offset, len(c.Map))
		}
	}
	if failed := m.g.Commit(s.ctx, epoch, nil); len(failed) > 0 {
		s.Errorf("commit of nothing: %v", failed)
	}
	m.commit(epoch, map[mq.PartitionID]mq.Commit{p: {Offset: 2, Map: want[1].Map[:min(8, s.caps.CommitMetadata)]}})
	m.leave()
	next := s.join(group, new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{p.Topic}})
	next.owns(len(s.partitions(p.Topic)))
	if got := next.committed(p)[p].Offset; got != 2 {
		s.Errorf("the next member begins at %d, want 2", got)
	}
}

// commitsOfMany makes one commit whose maps pass a broker's request limit of 1 MB together.
func commitsOfMany(s *suite) {
	s.need(s.caps.CreateTopics, "creation of topics")
	const n = 300
	topic := s.topic(n)
	m := s.join(s.name(), new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{topic}})
	epoch, owned := m.owns(n)
	cs := make(map[mq.PartitionID]mq.Commit)
	for p := range owned {
		cs[p] = mq.Commit{Map: strings.Repeat(string(rune('a'+p.Index%26)), s.caps.CommitMetadata)}
	}
	m.commit(epoch, cs)
	got := m.committed(s.partitions(topic)...)
	for p, c := range cs {
		if got[p] != c {
			s.Fatalf("partition %s came back as %d with %d bytes", p, got[p].Offset, len(got[p].Map))
		}
	}
}

func mapTooLarge(s *suite) {
	s.need(s.caps.CommitMetadata > 0, "commit metadata")
	topic := s.topic(2)
	ps := s.partitions(topic)
	m := s.join(s.name(), new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{topic}})
	epoch, _ := m.owns(len(ps))
	failed := m.g.Commit(s.ctx, epoch, map[mq.PartitionID]mq.Commit{
		ps[0]: {Offset: 0, Map: strings.Repeat("M", s.caps.CommitMetadata+1)},
		ps[1]: {Offset: 0, Map: "ok"},
	})
	if err := failed[ps[0]]; !errors.Is(err, mq.TooLarge) && !errors.Is(err, mq.Invalid) {
		s.Errorf("a map over the limit: %v, want class %q or %q", err, mq.TooLarge, mq.Invalid)
	}
	if err, ok := failed[ps[1]]; ok {
		s.Errorf("its neighbour: %v", err)
	}
	if got := m.committed(ps[1])[ps[1]]; got.Map != "ok" {
		s.Errorf("its neighbour was committed as %+v", got)
	}
}

func notOwnedIsFenced(s *suite) {
	mine, other := s.one(), s.one()
	m := s.join(s.name(), new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{mine.Topic}})
	epoch, _ := m.owns(len(s.partitions(mine.Topic)))
	failed := m.g.Commit(s.ctx, epoch, map[mq.PartitionID]mq.Commit{mine: {}, other: {}})
	if err, ok := failed[mine]; ok {
		s.Errorf("commit of the own partition beside a foreign one: %v", err)
	}
	s.wantClass("commit of a foreign partition", failed[other], mq.Fenced)
	failed = m.g.Commit(s.ctx, epoch-1, map[mq.PartitionID]mq.Commit{mine: {Offset: 7}})
	s.wantClass("commit in an epoch from before", failed[mine], mq.Fenced)
	failed = m.g.Commit(s.ctx, epoch+1, map[mq.PartitionID]mq.Commit{mine: {Offset: 7}})
	s.wantClass("commit in an epoch to come", failed[mine], mq.Fenced)
	_, err := m.g.Fetch(s.ctx, other, 0, mq.Limits{MaxBytes: 1000})
	s.wantClass("fetch of a foreign partition", err, mq.Fenced)
	if got := m.committed(mine)[mine].Offset; got != 0 {
		s.Errorf("a refused commit moved the position to %d", got)
	}
}

func twoMembersShare(s *suite) {
	topic := s.topic(4)
	all := s.partitions(topic)
	group, owners := s.name(), new(sync.Map)
	cfg := mq.GroupConfig{Topics: []mq.Topic{topic}, Member: "first"}
	first := s.join(group, owners, cfg)
	first.owns(len(all))
	for _, p := range all {
		s.put(p, text("0"), text("1"), text("2"))
	}
	first.mu.Lock()
	for i, p := range all {
		first.marks[p] = mq.Commit{Offset: int64(1 + i%2), Map: "mark"[:min(4, s.caps.CommitMetadata)]}
	}
	first.mu.Unlock()

	cfg.Member = "second"
	second := s.join(group, owners, cfg)
	half := len(all) / 2
	_, moved := second.owns(half)
	epoch, kept := first.owns(len(all) - half)
	for p := range moved {
		if kept[p] {
			s.Errorf("partition %s has two owners", p)
		}
		// The new owner finds what the old one committed between Revoked and Done.
		if got, want := second.committed(p)[p], first.marks[p]; got != want {
			s.Errorf("partition %s: the new owner sees %+v, want %+v", p, got, want)
		}
		// The old one can neither commit nor read any more, in whatever epoch.
		first.mu.Lock()
		revokedIn := first.last[p]
		first.mu.Unlock()
		for _, e := range []int64{revokedIn, epoch} {
			failed := first.g.Commit(s.ctx, e, map[mq.PartitionID]mq.Commit{p: {Offset: 3}})
			s.wantClass("commit of a partition that moved", failed[p], mq.Fenced)
		}
		_, err := first.g.Fetch(s.ctx, p, 0, mq.Limits{MaxBytes: 1000})
		s.wantClass("fetch of a partition that moved", err, mq.Fenced)
		if got := second.committed(p)[p]; got != first.marks[p] {
			s.Errorf("a stale commit moved partition %s to %+v", p, got)
		}
	}
	for p := range kept {
		first.commit(epoch, map[mq.PartitionID]mq.Commit{p: {Offset: 2}})
	}
}

func leaverReplaced(s *suite) {
	topic := s.topic(4)
	n := len(s.partitions(topic))
	group, owners := s.name(), new(sync.Map)
	first := s.join(group, owners, mq.GroupConfig{Topics: []mq.Topic{topic}, Member: "first"})
	first.owns(n)
	second := s.join(group, owners, mq.GroupConfig{Topics: []mq.Topic{topic}, Member: "second"})
	second.owns(n / 2)
	first.owns(n - n/2)
	first.leave()
	start := time.Now()
	second.owns(n)
	if took := time.Since(start); took > s.patience/2 {
		s.Errorf("a member that left was replaced after %v", took)
	}
	failed := first.g.Commit(s.ctx, 1, map[mq.PartitionID]mq.Commit{{Topic: topic}: {}})
	s.wantClass("commit after leaving", failed[mq.PartitionID{Topic: topic}], mq.Closed)
	_, err := first.g.Next(s.ctx)
	s.wantClass("next after leaving", err, mq.Closed)
	_, err = first.g.Fetch(s.ctx, mq.PartitionID{Topic: topic}, 0, mq.Limits{MaxBytes: 1})
	s.wantClass("fetch after leaving", err, mq.Closed)
	_, err = first.g.Committed(s.ctx, []mq.PartitionID{{Topic: topic}})
	s.wantClass("committed after leaving", err, mq.Closed)
}

func partitionsAdded(s *suite) {
	s.need(s.caps.CreateTopics && s.caps.AddPartitions, "creation of topics and partitions")
	topic := s.topic(1)
	m := s.join(s.name(), new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{topic}, Start: map[mq.Topic]mq.Start{topic: {At: mq.Earliest}}})
	m.owns(1)
	if err := s.d.Admin().AddPartitions(s.ctx, topic, 3); err != nil {
		s.Fatal(err)
	}
	s.await("producers see the new partitions", func() error {
		ps, err := s.d.Producer().Partitions(s.ctx, topic)
		if err == nil && len(ps) != 3 {
			err = fmt.Errorf("%d partitions", len(ps))
		}
		return err
	})
	_, owned := m.owns(3)
	for p := range owned {
		if p.Index > 0 {
			if got := m.committed(p)[p].Offset; got != 0 {
				s.Errorf("the new partition %s starts at %d", p, got)
			}
		}
	}
}

func nextContext(s *suite) {
	p := s.one()
	g, err := s.d.Group(s.ctx, mq.GroupConfig{Group: s.name(), Topics: []mq.Topic{p.Topic}, Member: "mqtest"})
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	for err == nil { // there may be assignments on the way
		var a mq.Assignment
		a, err = g.Next(ctx)
		g.Done(a.Epoch)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("next with an ended context: %v", err)
	}
	if took := time.Since(start); took > s.patience/2 {
		s.Errorf("it ended after %v", took)
	}
	if err := g.Close(s.ctx); err != nil {
		s.Error(err)
	}
	if err := g.Close(s.ctx); err != nil && !errors.Is(err, mq.Closed) {
		s.Errorf("a second close: %v", err)
	}
}
