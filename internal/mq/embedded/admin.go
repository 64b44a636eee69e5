package embedded

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"

	"github.com/sluice-mq/sluice/internal/mq"
)

type admin struct{ s *Store }

var _ mq.Admin = admin{}

// Topics implements mq.Admin.
func (a admin) Topics(ctx context.Context, names ...mq.Topic) ([]mq.TopicDetail, error) {
	s := a.s
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	var out []mq.TopicDetail
	if len(names) == 0 {
		for _, t := range s.allTopics() {
			d := s.describe(t)
			d.Config = nil
			out = append(out, d)
		}
		slices.SortFunc(out, func(a, b mq.TopicDetail) int { return compareTopics(a.Name, b.Name) })
		return out, nil
	}
	for _, name := range names {
		t, err := s.topic(name)
		if err != nil {
			return nil, err
		}
		out = append(out, s.describe(t))
	}
	return out, nil
}

func compareTopics(a, b mq.Topic) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func (s *Store) describe(t *topic) mq.TopicDetail {
	return mq.TopicDetail{
		Name: t.name, ID: strconv.FormatUint(t.ID, 10), Partitions: partitions(t), Config: maps.Clone(t.Config),
		MaxMessageBytes: s.recordLimit(t), MinInSync: 1,
	}
}

// put stores a topic and shows it once that is synced.
func (s *Store) put(t *tx, next *topic) error {
	value, err := json.Marshal(next.topicMeta)
	if err != nil {
		return err
	}
	if err := t.batch.Set(topicKey(next.name), value, nil); err != nil {
		return err
	}
	t.after = append(t.after, func() {
		s.topicsMu.Lock()
		s.topics[next.name] = next
		s.lastTopic = max(s.lastTopic, next.ID)
		s.topicsMu.Unlock()
		s.shareTopic(next.name)
	})
	return nil
}

// CreateTopic implements mq.Admin. There is one copy of each record; Replicas is 0 or 1.
func (a admin) CreateTopic(ctx context.Context, spec mq.TopicSpec) error {
	s := a.s
	if err := checkTopic(spec.Name); err != nil {
		return err
	}
	n := cmpOr(spec.Partitions, s.cfg.DefaultPartitions)
	if spec.Partitions < 0 || n > maxPartitions {
		return mq.Errorf(mq.Invalid, "topic %q with %d partitions; from 1 to %d", spec.Name, spec.Partitions, maxPartitions)
	}
	if spec.Replicas > 1 || spec.Replicas < 0 {
		return mq.Errorf(mq.Invalid, "topic %q with %d replicas; the embedded store keeps one copy", spec.Name, spec.Replicas)
	}
	return s.alone(ctx, func(t *tx) error {
		if _, err := s.topic(spec.Name); err == nil {
			return mq.Errorf(mq.Exists, "topic %q exists", spec.Name)
		}
		meta := topicMeta{ID: s.lastTopic + 1, Partitions: n, Config: maps.Clone(spec.Config), Created: s.now().UTC()}
		next, err := newTopic(spec.Name, meta, nil)
		if err != nil {
			return err
		}
		// The id is kept apart from the topic: it must not be given out again when the topic is deleted.
		if err := t.batch.Set([]byte{lastTopicKey}, binary.BigEndian.AppendUint64(nil, meta.ID), nil); err != nil {
			return err
		}
		return s.put(t, next)
	})
}

func checkTopic(name mq.Topic) error {
	if name == "" || len(name) > maxNameBytes || !utf8.ValidString(string(name)) {
		return mq.Errorf(mq.Invalid, "topic name of %d bytes; from 1 to %d bytes of UTF-8", len(name), maxNameBytes)
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return mq.Errorf(mq.Invalid, "topic name %q has control characters", name)
		}
	}
	return nil
}

// DeleteTopic implements mq.Admin: records, positions and all. Offsets of a topic made again begin at 0, under a new id.
func (a admin) DeleteTopic(ctx context.Context, name mq.Topic) error {
	s := a.s
	return s.alone(ctx, func(t *tx) error {
		old, err := s.topic(name)
		if err != nil {
			return err
		}
		err = errors.Join(
			t.batch.Delete(topicKey(name), nil),
			t.batch.DeleteRange(batchKey(nil, old.ID, 0, 0), batchKey(nil, old.ID+1, 0, 0), nil),
			t.batch.DeleteRange(partitionKey(old.ID, 0), partitionKey(old.ID+1, 0), nil),
			eachPosition(t.db, []byte{groupPrefix}, func(key, _ []byte) error {
				if _, id, _, ok := splitPosition(key); ok && id == old.ID {
					return t.batch.Delete(key, nil)
				}
				return nil
			}))
		if err != nil {
			return err
		}
		t.after = append(t.after, func() {
			s.topicsMu.Lock()
			delete(s.topics, name)
			s.topicsMu.Unlock()
			for _, p := range old.parts {
				p.set(p.mark, true)
			}
			s.shareTopic(name)
		})
		return nil
	})
}

// change replaces a topic.
func (a admin) change(ctx context.Context, name mq.Topic, with func(*topicMeta) error) error {
	s := a.s
	return s.alone(ctx, func(t *tx) error {
		old, err := s.topic(name)
		if err != nil {
			return err
		}
		meta := old.topicMeta
		meta.Config = maps.Clone(meta.Config)
		if err := with(&meta); err != nil {
			return err
		}
		next, err := newTopic(name, meta, slices.Clip(old.parts))
		if err != nil {
			return err
		}
		return s.put(t, next)
	})
}

// SetTopicConfig implements mq.Admin; what is not named stays.
func (a admin) SetTopicConfig(ctx context.Context, name mq.Topic, config map[string]string) error {
	return a.change(ctx, name, func(m *topicMeta) error {
		if m.Config == nil {
			m.Config = make(map[string]string)
		}
		maps.Copy(m.Config, config)
		return nil
	})
}

// AddPartitions implements mq.Admin.
func (a admin) AddPartitions(ctx context.Context, name mq.Topic, total int) error {
	return a.change(ctx, name, func(m *topicMeta) error {
		if total <= m.Partitions || total > maxPartitions {
			return mq.Errorf(mq.Invalid, "topic %q has %d partitions; the new number is more, and at most %d", name, m.Partitions, maxPartitions)
		}
		m.Partitions = total
		return nil
	})
}

// eachPosition walks over the positions with a prefix.
func eachPosition(db *pebble.DB, prefix []byte, f func(key, value []byte) error) error {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	for it.First(); it.Valid() && err == nil; it.Next() {
		err = f(it.Key(), it.Value())
	}
	return errors.Join(err, it.Error(), it.Close())
}

// Groups implements mq.Admin: those with members or positions.
func (a admin) Groups(ctx context.Context) ([]string, error) {
	s := a.s
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	s.groupsMu.Lock()
	for name := range s.groups {
		names[name] = true
	}
	s.groupsMu.Unlock()
	db, release, err := s.use()
	if err != nil {
		return nil, err
	}
	defer release()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{groupPrefix}, UpperBound: []byte{groupPrefix + 1}})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok; { // a seek for each group, not a look at each position
		name, _, _, known := splitPosition(it.Key())
		if !known {
			ok = it.Next()
			continue
		}
		names[name] = true
		ok = it.SeekGE(after(groupKey(name)))
	}
	return slices.Sorted(maps.Keys(names)), errors.Join(it.Error(), it.Close())
}

// DescribeGroup implements mq.Admin.
func (a admin) DescribeGroup(ctx context.Context, name string) (mq.GroupDetail, error) {
	s := a.s
	if err := s.ready(ctx); err != nil {
		return mq.GroupDetail{}, err
	}
	d := mq.GroupDetail{Name: name, State: "Empty", Protocol: "embedded"}
	for _, m := range s.members(name) {
		d.State = "Stable"
		m.g.mu.Lock()
		owned := m.g.roster.Owned(m.id)
		m.g.mu.Unlock()
		d.Members = append(d.Members, mq.GroupMember{
			ID: m.cfg.Member + "-" + strconv.FormatInt(int64(m.id), 10), Client: m.cfg.Member, Host: broker, Partitions: owned,
		})
	}
	if len(d.Members) > 0 {
		return d, nil
	}
	cs, err := a.GroupOffsets(ctx, name)
	if err == nil && len(cs) == 0 {
		err = mq.Errorf(mq.NotFound, "no group %q", name)
	}
	return d, err
}

// GroupOffsets implements mq.Admin.
func (a admin) GroupOffsets(ctx context.Context, name string) (map[mq.PartitionID]mq.Commit, error) {
	s := a.s
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	topics := make(map[uint64]*topic)
	for _, t := range s.allTopics() {
		topics[t.ID] = t
	}
	db, release, err := s.use()
	if err != nil {
		return nil, err
	}
	defer release()
	out := make(map[mq.PartitionID]mq.Commit)
	err = eachPosition(db, groupKey(name), func(key, value []byte) error {
		group, id, index, ok := splitPosition(key)
		t := topics[id]
		if !ok || group != name || t == nil {
			return nil
		}
		if c, ok := decodePosition(value); ok {
			out[mq.PartitionID{Topic: t.name, Index: index}] = c
		}
		return nil
	})
	return out, err
}

// unjoined fails where the group has members. In the committer this holds until the transaction is through: a member
// that joins meanwhile reads its positions by the committer too.
func (s *Store) unjoined(name string) error {
	if n := len(s.members(name)); n > 0 {
		return mq.Errorf(mq.Fenced, "group %q has %d members; stop its consumers first", name, n)
	}
	return nil
}

// SetGroupOffsets implements mq.Admin.
func (a admin) SetGroupOffsets(ctx context.Context, name string, cs map[mq.PartitionID]mq.Commit) error {
	s := a.s
	if err := checkGroup(name); err != nil {
		return err
	}
	return s.alone(ctx, func(t *tx) error {
		if err := s.unjoined(name); err != nil {
			return err
		}
		good := make(map[*partition]mq.Commit, len(cs))
		for id, c := range cs {
			p, _, err := s.partition(id)
			if err != nil {
				return err
			}
			if c.Offset < 0 || len(c.Map) > maxMapBytes {
				return mq.Errorf(mq.Invalid, "position %d with an ack map of %d bytes", c.Offset, len(c.Map))
			}
			good[p] = c
		}
		return t.positions(name, good)
	})
}

// DeleteGroup implements mq.Admin.
func (a admin) DeleteGroup(ctx context.Context, name string) error {
	s := a.s
	return s.alone(ctx, func(t *tx) error {
		if err := s.unjoined(name); err != nil {
			return err
		}
		found := false
		err := eachPosition(t.db, groupKey(name), func(key, _ []byte) error {
			group, _, _, ok := splitPosition(key)
			if !ok || group != name {
				return nil
			}
			found = true
			return t.batch.Delete(key, nil)
		})
		if err == nil && !found {
			err = mq.Errorf(mq.NotFound, "no group %q", name)
		}
		return err
	})
}
