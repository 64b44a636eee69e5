package mqtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
)

var adminCases = []testCase{
	{"TopicsAreListedAndDescribed", topicsListed},
	{"TopicsAreCreatedOnce", topicsCreated},
	{"TopicsAreDeleted", topicsDeleted},
	{"TopicConfigsAreSet", topicConfigs},
	{"PartitionsOnlyGrow", partitionsGrow},
	{"DeletionOfRecordsStaysInRange", deleteRecordsRange},
	{"CapsAreTrue", capsAreTrue},
	{"GroupsAreListedAndDescribed", groupsListed},
	{"GroupOffsetsAreSetWithoutMembers", groupOffsets},
	{"GroupsAreDeleted", groupsDeleted},
	{"ProbeAsksEachBroker", probe},
}

func topicsListed(s *suite) {
	topic := s.topic(3)
	admin := s.d.Admin()
	s.await("the topic is listed", func() error {
		all, err := admin.Topics(s.ctx)
		if err == nil && !slices.ContainsFunc(all, func(d mq.TopicDetail) bool { return d.Name == topic && len(d.Partitions) >= 3 }) {
			err = fmt.Errorf("not among %d topics", len(all))
		}
		return err
	})
	ds, err := admin.Topics(s.ctx, topic)
	if err != nil || len(ds) != 1 || ds[0].Name != topic || ds[0].Internal {
		s.Fatalf("described as %+v, %v", ds, err)
	}
	for _, p := range ds[0].Partitions {
		if p.Leader == "" || len(p.Replicas) == 0 {
			s.Errorf("partition %s: %+v", p.ID, p)
		}
	}
	if s.caps.CreateTopics {
		_, err = admin.Topics(s.ctx, mq.Topic(s.name()))
		s.wantClass("description of an unknown topic", err, mq.NotFound)
	}
}

func topicsCreated(s *suite) {
	admin := s.d.Admin()
	if !s.caps.CreateTopics {
		err := admin.CreateTopic(s.ctx, mq.TopicSpec{Name: mq.Topic(s.name()), Partitions: 1})
		s.wantClass("creation on a cluster without", err, mq.Unsupported)
		return
	}
	topic := s.topic(2)
	err := admin.CreateTopic(s.ctx, mq.TopicSpec{Name: topic, Partitions: 2, Replicas: s.replicas})
	s.wantClass("creation of a topic that exists", err, mq.Exists)
	err = admin.CreateTopic(s.ctx, mq.TopicSpec{Name: mq.Topic(s.name()), Partitions: 1, Replicas: 1000})
	if !errors.Is(err, mq.Invalid) {
		s.Errorf("1,000 replicas: %v, want class %q", err, mq.Invalid)
	}
	s.wantClass("an empty name", admin.CreateTopic(s.ctx, mq.TopicSpec{Partitions: 1}), mq.Invalid)
}

func topicsDeleted(s *suite) {
	admin := s.d.Admin()
	if !s.caps.DeleteTopics {
		s.wantClass("deletion on a cluster without", admin.DeleteTopic(s.ctx, mq.Topic(s.name())), mq.Unsupported)
		return
	}
	topic := s.topic(1)
	s.put(mq.PartitionID{Topic: topic}, text("old"))
	if err := admin.DeleteTopic(s.ctx, topic); err != nil {
		s.Fatal(err)
	}
	s.await("the topic is gone", func() error {
		_, err := s.d.Producer().Partitions(s.ctx, topic)
		if errors.Is(err, mq.NotFound) {
			return nil
		}
		return fmt.Errorf("partitions: %w", errors.Join(err, errors.New("still there")))
	})
	s.wantClass("deletion of an unknown topic", admin.DeleteTopic(s.ctx, topic), mq.NotFound)
	if !s.caps.CreateTopics {
		return
	}
	// Made again it is empty and begins at 0.
	s.await("the topic is made again", func() error {
		return admin.CreateTopic(s.ctx, mq.TopicSpec{Name: topic, Partitions: 1, Replicas: s.replicas})
	})
	s.await("the new topic takes records", func() error {
		r := s.try(s.ctx, mq.PartitionID{Topic: topic}, text("new"))[0]
		if r.Err == nil && r.Offset != 0 {
			s.Fatalf("the first record is at %d", r.Offset)
		}
		return r.Err
	})
	s.same(s.read(s.d.Reader(), mq.PartitionID{Topic: topic}, 0, 1), []mq.Record{text("new")})
}

func topicConfigs(s *suite) {
	admin := s.d.Admin()
	topic := s.topic(1)
	config := map[string]string{"retention.ms": "3600000", "max.message.bytes": "2000"}
	if !s.caps.TopicConfigs {
		s.wantClass("configs on a cluster without", admin.SetTopicConfig(s.ctx, topic, config), mq.Unsupported)
		return
	}
	if err := admin.SetTopicConfig(s.ctx, topic, config); err != nil {
		s.Fatal(err)
	}
	s.await("the configs are there", func() error {
		ds, err := admin.Topics(s.ctx, topic)
		if err != nil {
			return err
		}
		for k, v := range config {
			if ds[0].Config[k] != v {
				return fmt.Errorf("%s is %q, want %q", k, ds[0].Config[k], v)
			}
		}
		if ds[0].MaxMessageBytes != 2000 {
			return fmt.Errorf("limit %d, want 2000", ds[0].MaxMessageBytes)
		}
		return nil
	})
	p := mq.PartitionID{Topic: topic}
	s.await("the topic's own limit holds", func() error {
		r := s.try(s.ctx, p, mq.Record{Body: make([]byte, 3000)})[0]
		if r.Err == nil {
			return errors.New("a larger record was stored")
		}
		s.wantClass("a record over the topic's limit", r.Err, mq.TooLarge)
		return nil
	})
	s.put(p, mq.Record{Body: make([]byte, 1000)})
	err := admin.SetTopicConfig(s.ctx, mq.Topic(s.name()), config)
	s.wantClass("configs of an unknown topic", err, mq.NotFound)
}

func partitionsGrow(s *suite) {
	s.need(s.caps.CreateTopics, "creation of topics")
	topic := s.topic(2)
	if !s.caps.AddPartitions {
		s.wantClass("more partitions on a cluster without", s.d.Admin().AddPartitions(s.ctx, topic, 4), mq.Unsupported)
		return
	}
	for _, n := range []int{1, 2} {
		if err := s.d.Admin().AddPartitions(s.ctx, topic, n); !errors.Is(err, mq.Invalid) {
			s.Errorf("from 2 partitions to %d: %v, want class %q", n, err, mq.Invalid)
		}
	}
	s.put(mq.PartitionID{Topic: topic, Index: 1}, text("kept"))
	if err := s.d.Admin().AddPartitions(s.ctx, topic, 4); err != nil {
		s.Fatal(err)
	}
	s.await("the new partition takes records", func() error {
		return s.try(s.ctx, mq.PartitionID{Topic: topic, Index: 3}, text("x"))[0].Err
	})
	s.same(s.read(s.d.Reader(), mq.PartitionID{Topic: topic, Index: 1}, 0, 1), []mq.Record{text("kept")})
	err := s.d.Admin().AddPartitions(s.ctx, mq.Topic(s.name()), 4)
	s.wantClass("more partitions for an unknown topic", err, mq.NotFound)
}

func deleteRecordsRange(s *suite) {
	p := s.one()
	s.put(p, text("0"), text("1"), text("2"))
	below := func(o int64) error {
		return s.d.Admin().DeleteRecords(s.ctx, map[mq.PartitionID]int64{p: o})
	}
	if !s.caps.DeleteRecords {
		s.wantClass("deletion of records on a cluster without", below(1), mq.Unsupported)
		return
	}
	if err := below(4); !errors.Is(err, mq.Invalid) {
		s.Errorf("below an offset past the end: %v, want class %q", err, mq.Invalid)
	}
	for _, o := range []int64{1, 0, 3} { // going back deletes nothing
		if err := below(o); err != nil {
			s.Fatalf("below %d: %v", o, err)
		}
	}
	if got := s.offset(p, mq.Start{At: mq.Earliest}); got != 3 {
		s.Errorf("earliest is %d, want 3", got)
	}
	if got := s.offset(p, mq.Start{At: mq.Latest}); got != 3 {
		s.Errorf("latest is %d, want 3: offsets never go back", got)
	}
	if got := s.put(p, text("3"))[0]; got != 3 {
		s.Errorf("the next record is at %d, want 3", got)
	}
}

func capsAreTrue(s *suite) {
	if s.caps.Version == "" {
		s.Error("no version")
	}
	if s.caps.MaxRecordBytes < 1000 {
		s.Errorf("largest record %d bytes", s.caps.MaxRecordBytes)
	}
	if s.d.Kind() == "" {
		s.Error("no kind")
	}
	if again, err := s.d.Caps(s.ctx); err != nil || again != s.caps {
		s.Errorf("asked again: %+v, %v; want %+v", again, err, s.caps)
	}
}

func groupsListed(s *suite) {
	topic := s.topic(2)
	group := s.name()
	m := s.join(group, new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{topic}, Member: "teller"})
	epoch, owned := m.owns(len(s.partitions(topic)))
	for p := range owned {
		m.commit(epoch, map[mq.PartitionID]mq.Commit{p: {}})
	}
	s.await("the group is listed", func() error {
		names, err := s.d.Admin().Groups(s.ctx)
		if err == nil && !slices.Contains(names, group) {
			err = fmt.Errorf("not among %d groups", len(names))
		}
		return err
	})
	d, err := s.d.Admin().DescribeGroup(s.ctx, group)
	if err != nil {
		s.Fatal(err)
	}
	if d.Name != group || len(d.Members) != 1 || d.Members[0].Client != "teller" || len(d.Members[0].Partitions) != len(owned) {
		s.Errorf("described as %+v", d)
	}
	if d, err := s.d.Admin().DescribeGroup(s.ctx, s.name()); err == nil && len(d.Members) > 0 || err != nil && !errors.Is(err, mq.NotFound) {
		s.Errorf("an unknown group is described as %+v, %v", d, err)
	}
}

func groupOffsets(s *suite) {
	topic := s.topic(2)
	ps := s.partitions(topic)
	s.put(ps[0], text("0"), text("1"))
	group, admin := s.name(), s.d.Admin()
	if cs, err := admin.GroupOffsets(s.ctx, group); (err != nil && !errors.Is(err, mq.NotFound)) || len(cs) > 0 {
		s.Errorf("positions of an unknown group: %v, %v", cs, err)
	}
	want := mq.Commit{Offset: 1, Map: "map"[:min(3, s.caps.CommitMetadata)]}
	if err := admin.SetGroupOffsets(s.ctx, group, map[mq.PartitionID]mq.Commit{ps[0]: want}); err != nil {
		s.Fatal(err)
	}
	cs, err := admin.GroupOffsets(s.ctx, group)
	if _, other := cs[ps[1]]; err != nil || cs[ps[0]] != want || other {
		s.Errorf("positions %v, %v; want %+v for one partition", cs, err, want)
	}
	m := s.join(group, new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{topic}})
	m.owns(len(ps))
	if got := m.committed(ps[0])[ps[0]]; got != want {
		s.Errorf("a member begins at %+v, want %+v", got, want)
	}
	if err := admin.SetGroupOffsets(s.ctx, group, map[mq.PartitionID]mq.Commit{ps[0]: {Offset: 2}}); err == nil {
		s.Error("positions were set under a living member")
	}
	if got := m.committed(ps[0])[ps[0]]; got != want {
		s.Errorf("a refused change moved the position to %+v", got)
	}
}

func groupsDeleted(s *suite) {
	p := s.one()
	group, admin := s.name(), s.d.Admin()
	m := s.join(group, new(sync.Map), mq.GroupConfig{Topics: []mq.Topic{p.Topic}})
	epoch, _ := m.owns(len(s.partitions(p.Topic)))
	m.commit(epoch, map[mq.PartitionID]mq.Commit{p: {}})
	if err := admin.DeleteGroup(s.ctx, group); err == nil {
		s.Error("a group was deleted under a living member")
	}
	m.leave()
	if !s.caps.DeleteGroups {
		s.wantClass("deletion of a group on a cluster without", admin.DeleteGroup(s.ctx, group), mq.Unsupported)
		return
	}
	s.await("the group is deleted", func() error { return admin.DeleteGroup(s.ctx, group) })
	s.wantClass("deletion of an unknown group", admin.DeleteGroup(s.ctx, group), mq.NotFound)
	if cs, err := admin.GroupOffsets(s.ctx, group); (err != nil && !errors.Is(err, mq.NotFound)) || len(cs) > 0 {
		s.Errorf("positions of a deleted group: %v, %v", cs, err)
	}
}

func probe(s *suite) {
	ctx, cancel := context.WithTimeout(s.ctx, s.patience)
	defer cancel()
	health := s.d.Probe(ctx)
	if len(health) == 0 {
		s.Fatal("no broker")
	}
	for _, h := range health {
		if h.Err != nil || h.Broker == "" {
			s.Errorf("broker %q: %v", h.Broker, h.Err)
		}
	}
	ended, end := context.WithCancel(s.ctx)
	end()
	start := time.Now()
	for _, h := range s.d.Probe(ended) {
		if h.Err == nil {
			s.Errorf("broker %s was asked with an ended context and is well", h.Broker)
		}
	}
	if took := time.Since(start); took > s.patience/2 {
		s.Errorf("it took %v", took)
	}
}
