package mqtest

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/sluice-mq/sluice/internal/mq"
)

const maxMessageBytes = "max.message.bytes"

type fakeAdmin struct{ f *Fake }

// admit fails where the fake is closed, ctx has ended or the script says so.
func (f *Fake) admit(ctx context.Context, call string) error {
	if err := f.ready(ctx); err != nil {
		return err
	}
	if hook := f.script().admin; hook != nil {
		return hook(call)
	}
	return nil
}

// able is admit for what some clusters cannot do.
func (f *Fake) able(ctx context.Context, call string, able bool) error {
	if err := f.admit(ctx, call); err != nil {
		return err
	}
	if !able {
		return mq.Errorf(mq.Unsupported, "this cluster cannot do %s", call)
	}
	return nil
}

// topic finds a topic. The caller holds mu.
func (f *Fake) topic(name mq.Topic) (*fakeTopic, error) {
	if t := f.topics[name]; t != nil {
		return t, nil
	}
	return nil, mq.Errorf(mq.NotFound, "no topic %q", name)
}

// Topics implements mq.Admin.
func (a fakeAdmin) Topics(ctx context.Context, names ...mq.Topic) ([]mq.TopicDetail, error) {
	f := a.f
	if err := f.admit(ctx, "Topics"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	all := len(names) == 0
	if all {
		names = slices.Sorted(maps.Keys(f.topics))
	}
	out := make([]mq.TopicDetail, 0, len(names))
	for _, name := range names {
		t, err := f.topic(name)
		if err != nil {
			return nil, err
		}
		d := mq.TopicDetail{Name: name, ID: t.id, MaxMessageBytes: f.caps.MaxRecordBytes, MinInSync: 1}
		for _, p := range t.parts {
			d.Partitions = append(d.Partitions, clonePartition(p.info))
		}
		if !all {
			d.Config = maps.Clone(t.config)
			if n, err := strconv.Atoi(t.config[maxMessageBytes]); err == nil {
				d.MaxMessageBytes = n
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// CreateTopic implements mq.Admin.
func (a fakeAdmin) CreateTopic(ctx context.Context, spec mq.TopicSpec) error {
	f := a.f
	if err := f.able(ctx, "CreateTopic", f.caps.CreateTopics); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.topics[spec.Name] != nil:
		return mq.Errorf(mq.Exists, "topic %q exists", spec.Name)
	case spec.Name == "" || spec.Partitions < 0 || spec.Replicas > len(f.brokers):
		return mq.Errorf(mq.Invalid, "topic %q with %d partitions and %d replicas", spec.Name, spec.Partitions, spec.Replicas)
	case spec.Partitions == 0:
		spec.Partitions = 1
	}
	config := maps.Clone(spec.Config)
	if config == nil {
		config = make(map[string]string)
	}
	f.addTopic(spec.Name, spec.Partitions, config)
	return nil
}

// DeleteTopic implements mq.Admin.
func (a fakeAdmin) DeleteTopic(ctx context.Context, name mq.Topic) error {
	f := a.f
	if err := f.able(ctx, "DeleteTopic", f.caps.DeleteTopics); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := f.topic(name)
	if err != nil {
		return err
	}
	for _, p := range t.parts {
		p.gone = true
	}
	delete(f.topics, name)
	for _, g := range f.groups {
		maps.DeleteFunc(g.commits, func(id mq.PartitionID, _ mq.Commit) bool { return id.Topic == name })
	}
	f.shareTopic(name)
	f.notify()
	return nil
}

// SetTopicConfig implements mq.Admin.
func (a fakeAdmin) SetTopicConfig(ctx context.Context, name mq.Topic, config map[string]string) error {
	f := a.f
	if err := f.able(ctx, "SetTopicConfig", f.caps.TopicConfigs); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := f.topic(name)
	if err == nil {
		maps.Copy(t.config, config)
	}
	return err
}

// AddPartitions implements mq.Admin.
func (a fakeAdmin) AddPartitions(ctx context.Context, name mq.Topic, total int) error {
	f := a.f
	if err := f.able(ctx, "AddPartitions", f.caps.AddPartitions); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := f.topic(name)
	if err != nil {
		return err
	}
	if total <= len(t.parts) {
		return mq.Errorf(mq.Invalid, "topic %q has %d partitions, %d are not more", name, len(t.parts), total)
	}
	f.widen(t, total)
	return nil
}

// DeleteRecords implements mq.Admin.
func (a fakeAdmin) DeleteRecords(ctx context.Context, below map[mq.PartitionID]int64) error {
	f := a.f
	if err := f.able(ctx, "DeleteRecords", f.caps.DeleteRecords); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, offset := range below {
		p, err := f.partition(id)
		if err != nil {
			return err
		}
		if offset > p.end() {
			return mq.Errorf(mq.Invalid, "offset %d is beyond the end %d of partition %s", offset, p.end(), id)
		}
		p.trim(offset)
	}
	return nil
}

// Groups implements mq.Admin.
func (a fakeAdmin) Groups(ctx context.Context) ([]string, error) {
	f := a.f
	if err := f.admit(ctx, "Groups"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name, g := range f.groups {
		if len(g.members)+len(g.commits) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// known finds a group with members or positions. The caller holds mu.
func (f *Fake) known(name string) (*fakeGroup, error) {
	g := f.groups[name]
	if g == nil || len(g.members)+len(g.commits) == 0 {
		return nil, mq.Errorf(mq.NotFound, "no group %q", name)
	}
	return g, nil
}

// idle is a group without members, made where it does not exist. The caller holds mu.
func (f *Fake) idle(name string) (*fakeGroup, error) {
	g := f.group(name)
	if len(g.members) > 0 {
		return nil, mq.Errorf(mq.Fenced, "group %q has %d members", name, len(g.members))
	}
	return g, nil
}

// DescribeGroup implements mq.Admin.
func (a fakeAdmin) DescribeGroup(ctx context.Context, name string) (mq.GroupDetail, error) {
	f := a.f
	if err := f.admit(ctx, "DescribeGroup"); err != nil {
		return mq.GroupDetail{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.known(name)
	if err != nil {
		return mq.GroupDetail{}, err
	}
	d := mq.GroupDetail{Name: name, State: "Empty", Protocol: "cooperative-sticky"}
	for _, m := range g.members {
		d.State = "Stable"
		d.Members = append(d.Members, mq.GroupMember{
			ID: m.cfg.Member + "-" + strconv.FormatInt(int64(m.id), 10), Client: m.cfg.Member, Host: "fake",
			Partitions: g.sharing().Owned(m.id),
		})
	}
	return d, nil
}

// GroupOffsets implements mq.Admin.
func (a fakeAdmin) GroupOffsets(ctx context.Context, name string) (map[mq.PartitionID]mq.Commit, error) {
	if err := a.f.admit(ctx, "GroupOffsets"); err != nil {
		return nil, err
	}
	return a.f.Commits(name), nil
}

// SetGroupOffsets implements mq.Admin.
func (a fakeAdmin) SetGroupOffsets(ctx context.Context, name string, cs map[mq.PartitionID]mq.Commit) error {
	f := a.f
	if err := f.admit(ctx, "SetGroupOffsets"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.idle(name)
	if err != nil {
		return err
	}
	for id := range cs {
		if _, err := f.partition(id); err != nil {
			return err
		}
	}
	maps.Copy(g.commits, cs)
	f.notify()
	return nil
}

// DeleteGroup implements mq.Admin.
func (a fakeAdmin) DeleteGroup(ctx context.Context, name string) error {
	f := a.f
	if err := f.able(ctx, "DeleteGroup", f.caps.DeleteGroups); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.known(name); err != nil {
		return err
	}
	g, err := f.idle(name)
	if err != nil {
		return err
	}
	clear(g.commits)
	f.notify()
	return nil
}
