package kafka

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// admin implements mq.Admin.
type admin struct{ d *Driver }

func (a admin) cl() *kadm.Client {
	c := kadm.NewClient(a.d.slow)
	c.SetTimeoutMillis(int32(a.d.cfg.AdminTimeout.Milliseconds()))
	return c
}

// begin bounds a call and asks for a capability.
func (a admin) begin(ctx context.Context, has func(mq.Caps) bool, what string) (context.Context, context.CancelFunc, error) {
	if a.d.isClosed() {
		return nil, nil, errClosed()
	}
	ctx, cancel := a.d.bound(ctx, 4*a.d.cfg.AdminTimeout)
	caps, err := a.d.Caps(ctx)
	if err == nil && has != nil && !has(caps) {
		err = unsupported(what)
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, cancel, nil
}

// Topics implements mq.Admin.
func (a admin) Topics(ctx context.Context, names ...mq.Topic) ([]mq.TopicDetail, error) {
	ctx, cancel, err := a.begin(ctx, nil, "")
	if err != nil {
		return nil, err
	}
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	// Brokers before 0.11 make a topic that is asked for by name.
	if a.d.version(3) >= 4 {
		for _, n := range names {
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = new(string(n))
			req.Topics = append(req.Topics, t)
		}
	}
	resp, err := req.RequestWith(ctx, a.d.slow)
	if err != nil {
		return nil, transportError(err)
	}
	var details []mq.TopicDetail
	for i := range resp.Topics {
		rt := &resp.Topics[i]
		name := mq.Topic(value(rt.Topic))
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		tm := topicMetaOf(name, rt)
		if tm.err != nil && (len(names) > 0 || tm.err.Class == mq.NotFound) {
			if len(names) == 0 {
				continue // deleted this moment
			}
			return nil, tm.err
		}
		details = append(details, mq.TopicDetail{Name: name, ID: topicIDString(tm.id), Internal: rt.IsInternal, Partitions: tm.partitions})
	}
	for _, n := range names {
		if !slices.ContainsFunc(details, func(d mq.TopicDetail) bool { return d.Name == n }) {
			return nil, mq.Errorf(mq.NotFound, "topic %s does not exist", n)
		}
	}
	slices.SortFunc(details, func(x, y mq.TopicDetail) int { return compareTopics(x.Name, y.Name) })
	if len(names) > 0 && a.d.version(32) >= 0 {
		return details, a.addConfigs(ctx, details)
	}
	return details, nil
}

func compareTopics(a, b mq.Topic) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (a admin) addConfigs(ctx context.Context, details []mq.TopicDetail) error {
	names := make([]string, len(details))
	for i := range details {
		names[i] = string(details[i].Name)
	}
	configs, err := a.cl().DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return transportError(err)
	}
	for i := range details {
		d := &details[i]
		c, err := configs.On(string(d.Name), nil)
		if err != nil {
			return transportError(err)
		}
		if c.Err != nil {
			return transportError(c.Err)
		}
		d.Config = map[string]string{}
		for _, kv := range c.Configs {
			switch kv.Key {
			case "max.message.bytes":
				d.MaxMessageBytes, _ = strconv.Atoi(kv.MaybeValue())
			case "min.insync.replicas":
				d.MinInSync, _ = strconv.Atoi(kv.MaybeValue())
			}
			if !kv.Sensitive && kv.Source == kmsg.ConfigSourceDynamicTopicConfig {
				d.Config[kv.Key] = kv.MaybeValue()
			}
		}
	}
	return nil
}

// CreateTopic implements mq.Admin. Kafka 0.10.0 has no request for it: there a topic comes into being by being asked for,
// with the broker's own defaults, so only a spec that asks for nothing else is taken.
func (a admin) CreateTopic(ctx context.Context, spec mq.TopicSpec) error {
	ctx, cancel, err := a.begin(ctx, nil, "")
	if err != nil {
		return err
	}
	defer cancel()
	if spec.Name == "" || spec.Partitions < 1 || spec.Replicas < 0 {
		return mq.Errorf(mq.Invalid, "topic %q: a name and at least one partition are needed", spec.Name)
	}
	if a.d.version(19) < 0 {
		return a.autoCreate(ctx, spec)
	}
	configs := make(map[string]*string, len(spec.Config))
	for k, v := range spec.Config {
		configs[k] = &v
	}
	replicas := int16(spec.Replicas)
	if spec.Replicas == 0 {
		replicas = -1
		if a.d.version(19) < 4 { // before 2.4 a request has to say it
			if replicas, err = a.defaultReplicas(ctx); err != nil {
				return err
			}
		}
	}
	resp, err := a.cl().CreateTopic(ctx, int32(spec.Partitions), replicas, configs, string(spec.Name))
	if err != nil {
		return topicError(spec.Name, err, resp.ErrMessage)
	}
	a.d.meta.forget(spec.Name)
	return a.settled(ctx, spec.Name, func(t *topicMeta) bool { return len(t.partitions) == spec.Partitions && allLed(t) })
}

func topicError(name mq.Topic, err error, msg string) error {
	e := transportError(err)
	e.Msg = "topic " + string(name) + ": " + e.Msg
	if msg != "" {
		e.Msg += ": " + msg
	}
	return e
}

func allLed(t *topicMeta) bool { return !slices.Contains(t.leaders, -1) }

// defaultReplicas is a broker's default.replication.factor, or 1.
func (a admin) defaultReplicas(ctx context.Context) (int16, error) {
	if a.d.version(32) < 0 {
		return 1, nil
	}
	brokers, err := a.cl().ListBrokers(ctx)
	if err != nil {
		return 0, transportError(err)
	}
	if len(brokers) == 0 {
		return 1, nil
	}
	rc, err := a.cl().DescribeBrokerConfigs(ctx, brokers[0].NodeID)
	if err != nil {
		return 0, transportError(err)
	}
	for _, c := range rc {
		for _, kv := range c.Configs {
			if n, err := strconv.Atoi(kv.MaybeValue()); kv.Key == "default.replication.factor" && err == nil && n > 0 {
				return int16(n), nil
			}
		}
	}
	return 1, nil
}

func (a admin) autoCreate(ctx context.Context, spec mq.TopicSpec) error {
	if len(spec.Config) > 0 || spec.Replicas > 1 {
		return mq.Errorf(mq.Unsupported, "topic %s: Kafka 0.10.0 makes topics with its own defaults only; make it with kafka-topics.sh to set configuration or replicas", spec.Name)
	}
	if _, err := a.d.meta.get(ctx, spec.Name, 0); err == nil {
		return mq.Errorf(mq.Exists, "topic %s exists", spec.Name)
	}
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = true
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = new(string(spec.Name))
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, a.d.slow)
	if err != nil {
		return transportError(err)
	}
	if len(resp.Topics) == 1 && resp.Topics[0].ErrorCode != 0 && resp.Topics[0].ErrorCode != kerr.LeaderNotAvailable.Code {
		if resp.Topics[0].ErrorCode == kerr.UnknownTopicOrPartition.Code {
			return mq.Errorf(mq.Unsupported, "topic %s: Kafka 0.10.0 makes topics only with auto.create.topics.enable; make it with kafka-topics.sh", spec.Name)
		}
		return topicError(spec.Name, kerr.ErrorForCode(resp.Topics[0].ErrorCode), "")
	}
	made := 0
	if err := a.settled(ctx, spec.Name, func(t *topicMeta) bool { made = len(t.partitions); return made > 0 && allLed(t) }); err != nil {
		return err
	}
	if made != spec.Partitions {
		return mq.Errorf(mq.Unsupported, "topic %s was made with %d partitions, the default of this Kafka 0.10.0, instead of %d", spec.Name, made, spec.Partitions)
	}
	return nil
}

// settled waits until the brokers agree on a change of a topic, so that the caller can use it at once, by whichever broker.
func (a admin) settled(ctx context.Context, name mq.Topic, ok func(*topicMeta) bool) error {
	for {
		tm, err := a.d.meta.get(ctx, name, 0)
		if err == nil && ok(tm) {
			a.seenByAll(ctx, name, ok)
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return &mq.Error{Class: mq.Timeout, MaybeSent: true, Msg: "topic " + string(name) + ": the change is made, but not seen on all brokers yet", Cause: ctx.Err()}
		}
	}
}

// agreeWait bounds the waiting for brokers that lag behind: one that has just started, or hangs.
const agreeWait = 3 * time.Second

// seenByAll waits until each broker tells of the change. Those that do not answer, or lag for long, are left out: the
// change is made, and they learn of it before they are of use to anybody.
func (a admin) seenByAll(ctx context.Context, name mq.Topic, ok func(*topicMeta) bool) {
	if a.d.version(3) < 4 {
		return // asked by name, brokers before 0.11 make a topic that they do not know yet
	}
	ctx, cancel := context.WithTimeout(ctx, agreeWait)
	defer cancel()
	var asked sync.WaitGroup
	for _, broker := range a.d.slow.DiscoveredBrokers() {
		asked.Go(func() {
			req := kmsg.NewPtrMetadataRequest()
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = new(string(name))
			req.Topics = append(req.Topics, t)
			for {
				resp, err := req.RequestWith(ctx, broker)
				if err != nil {
					return
				}
				if len(resp.Topics) == 1 {
					if tm := topicMetaOf(name, &resp.Topics[0]); tm.err == nil && ok(tm) {
						return
					}
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	asked.Wait()
}

// DeleteTopic implements mq.Admin.
func (a admin) DeleteTopic(ctx context.Context, name mq.Topic) error {
	ctx, cancel, err := a.begin(ctx, func(c mq.Caps) bool { return c.DeleteTopics }, "deleting topics (Kafka 1.0)")
	if err != nil {
		return err
	}
	defer cancel()
	resp, err := a.cl().DeleteTopic(ctx, string(name))
	if err != nil {
		return topicError(name, err, resp.ErrMessage)
	}
	a.d.meta.forget(name)
	return nil
}

// SetTopicConfig implements mq.Admin. It changes the named keys and leaves the others; an empty value takes a key back
// to its default. Clusters before 2.3 take whole configurations only: there it is read, changed and written.
func (a admin) SetTopicConfig(ctx context.Context, name mq.Topic, config map[string]string) error {
	ctx, cancel, err := a.begin(ctx, func(c mq.Caps) bool { return c.TopicConfigs }, "topic configurations (Kafka 0.11)")
	if err != nil {
		return err
	}
	defer cancel()
	details, err := a.Topics(ctx, name)
	if err != nil {
		return err
	}
	var alter []kadm.AlterConfig
	state := a.d.version(44) < 0
	if state {
		merged := details[0].Config
		maps.Copy(merged, config)
		config = merged
	}
	for k, v := range config {
		switch {
		case v != "":
			alter = append(alter, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
		case !state:
			alter = append(alter, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: k})
		}
	}
	do := a.cl().AlterTopicConfigs
	if state {
		do = a.cl().AlterTopicConfigsState
	}
	resps, err := do(ctx, alter, string(name))
	if err != nil {
		return topicError(name, err, "")
	}
	for _, r := range resps {
		if r.Err != nil {
			return topicError(name, r.Err, r.ErrMessage)
		}
	}
	return nil
}

// AddPartitions implements mq.Admin.
func (a admin) AddPartitions(ctx context.Context, name mq.Topic, total int) error {
	ctx, cancel, err := a.begin(ctx, nil, "")
	if err != nil {
		return err
	}
	defer cancel()
	if a.d.version(37) < 0 {
		return unsupported("adding partitions (Kafka 1.0)")
	}
	resps, err := a.cl().UpdatePartitions(ctx, total, string(name))
	if err != nil {
		return topicError(name, err, "")
	}
	for _, r := range resps {
		if r.Err != nil {
			return topicError(name, r.Err, r.ErrMessage)
		}
	}
	// What is cached stays, so that the difference is noticed and groups balance the new partitions.
	return a.settled(ctx, name, func(t *topicMeta) bool { return len(t.partitions) >= total && allLed(t) })
}

// DeleteRecords implements mq.Admin.
func (a admin) DeleteRecords(ctx context.Context, below map[mq.PartitionID]int64) error {
	ctx, cancel, err := a.begin(ctx, func(c mq.Caps) bool { return c.DeleteRecords }, "deleting records (Kafka 0.11)")
	if err != nil {
		return err
	}
	defer cancel()
	var os kadm.Offsets
	for p, o := range below {
		if _, err := a.d.meta.get(ctx, p.Topic, metaStale); err != nil {
			return err
		}
		os.Add(kadm.Offset{Topic: string(p.Topic), Partition: p.Index, At: o})
	}
	resps, err := a.cl().DeleteRecords(ctx, os)
	if err != nil {
		return transportError(err)
	}
	var failed error
	resps.Each(func(r kadm.DeleteRecordsResponse) {
		if r.Err != nil && failed == nil {
			failed = wrapf(transportError(r.Err), "topic %s, partition %d", r.Topic, r.Partition)
		}
	})
	return failed
}
