package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/secret"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/internal/store"
)

// ClusterSpec is a cluster with its secrets in the clear (but hidden).
type ClusterSpec struct {
	Name             string
	Kind             mq.Kind
	Bootstrap        []string
	Datacenter, Side string
	SASLMechanism    string
	SASLUser         string
	SASLPassword     secret.Secret
	TLS              bool
	TLSCA, TLSCert   []byte
	TLSKey           secret.Secret
	TLSServerName    string
}

// Health of a cluster or broker.
const (
	HealthOK       = "ok"
	HealthDegraded = "degraded"
	HealthDown     = "down"
	HealthUnknown  = "unknown"
)

// ClusterInfo is a cluster as it is shown.
type ClusterInfo struct {
	Cluster      *snapshot.Cluster
	Version      string
	Health       string
	HealthText   string
	Brokers      []mq.BrokerHealth
	Capabilities []string
}

// reachTimeout bounds a first contact with a cluster.
const reachTimeout = 15 * time.Second

// seal makes the stored form of a spec.
func (s *Service) seal(spec *ClusterSpec) (*snapshot.Cluster, error) {
	c := &snapshot.Cluster{
		Name: spec.Name, Kind: spec.Kind, Bootstrap: spec.Bootstrap, Datacenter: spec.Datacenter, Side: spec.Side,
		SASLMechanism: spec.SASLMechanism, SASLUser: spec.SASLUser,
		TLS: spec.TLS, TLSCA: spec.TLSCA, TLSCert: spec.TLSCert, TLSServerName: spec.TLSServerName,
	}
	var err error
	if c.SealedPassword, err = s.deps.Box.Seal(c.PasswordPlace(), []byte(spec.SASLPassword.Reveal())); err != nil {
		return nil, err
	}
	if c.SealedKey, err = s.deps.Box.Seal(c.KeyPlace(), []byte(spec.TLSKey.Reveal())); err != nil {
		return nil, err
	}
	return c, nil
}

// unseal gives a stored cluster as a spec.
func (s *Service) unseal(c *snapshot.Cluster) (*ClusterSpec, error) {
	password, err := s.deps.Box.Open(c.PasswordPlace(), c.SealedPassword)
	if err != nil {
		return nil, err
	}
	key, err := s.deps.Box.Open(c.KeyPlace(), c.SealedKey)
	if err != nil {
		return nil, err
	}
	return &ClusterSpec{
		Name: c.Name, Kind: c.Kind, Bootstrap: c.Bootstrap, Datacenter: c.Datacenter, Side: c.Side,
		SASLMechanism: c.SASLMechanism, SASLUser: c.SASLUser, SASLPassword: secret.New(string(password)),
		TLS: c.TLS, TLSCA: c.TLSCA, TLSCert: c.TLSCert, TLSKey: secret.New(string(key)), TLSServerName: c.TLSServerName,
	}, nil
}

// AddCluster registers a cluster after it answered; with unreachableOK also one
// that does not answer now.
func (s *Service) AddCluster(ctx context.Context, who auth.Who, spec *ClusterSpec, unreachableOK, dry bool) (*ClusterInfo, error) {
	if err := checkClusterSpec(spec); err != nil {
		return nil, err
	}
	c, err := s.seal(spec)
	if err != nil {
		return nil, err
	}
	info, err := s.reach(ctx, c)
	if err != nil && (!unreachableOK || fault.ReasonOf(err) == fault.Unsupported) {
		return nil, err
	}
	st, err := s.write(ctx, dry, func(ctx context.Context, tx *store.Tx) error { return tx.InsertCluster(ctx, c) })
	if err != nil {
		return nil, stored(err, fault.ClusterNotFound, "cluster", c.Name)
	}
	info.Cluster = st.Clusters[c.Name]
	if !dry {
		s.audit(ctx, who, "cluster add", c.Name, nil, info.Cluster)
		s.probes.remember(c.Name, info)
	}
	return info, nil
}

// reach opens a description, asks the cluster who it is, and closes it. The
// info is filled as far as it came.
func (s *Service) reach(ctx context.Context, c *snapshot.Cluster) (*ClusterInfo, error) {
	info := &ClusterInfo{Cluster: c, Health: HealthDown}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	d, err := s.deps.Clusters.Trial(c)
	if err != nil {
		info.HealthText = err.Error()
		if fault.ReasonOf(err) == fault.Internal {
			err = fault.Wrap(err, fault.InvalidArgument, "cluster %q cannot be opened: %v; check its settings", c.Name, err)
		}
		return info, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := d.Close(closing); err != nil {
			s.log.WarnContext(ctx, "trial of a cluster not closed cleanly", "cluster", c.Name, "err", err)
		}
	}()
	if err := look(ctx, d, info); err != nil {
		return info, unreachable(err, c)
	}
	return info, nil
}

// unreachable says what a first contact came to.
func unreachable(err error, c *snapshot.Cluster) error {
	where := strings.Join(c.Bootstrap, ", ")
	if errors.Is(err, mq.Auth) {
		return fault.Wrap(err, fault.ClusterAuth, "cluster %q at %s refused the credentials: %v; check SASL mechanism, user and password, and the client certificate", c.Name, where, err)
	}
	return fault.Wrap(err, fault.Unavailable, "cluster %q: nothing at %s answers as %s: %v; check host and port, whether the listener wants TLS or SASL, and the certificates of both sides; --unreachable-ok registers it all the same", c.Name, where, c.Kind, err)
}

// look asks a cluster for what a ClusterInfo shows.
func look(ctx context.Context, d mq.Driver, info *ClusterInfo) error {
	caps, err := d.Caps(ctx)
	if err != nil {
		info.Health, info.HealthText = HealthDown, err.Error()
		return err
	}
	info.Version, info.Capabilities = caps.Version, capabilities(caps)
	info.Brokers = d.Probe(ctx)
	info.Health, info.HealthText = judge(info.Brokers)
	return nil
}

// judge makes one word of the brokers' answers.
func judge(bs []mq.BrokerHealth) (health, text string) {
	if len(bs) == 0 {
		return HealthDown, "no broker is known"
	}
	var bad []string
	for _, b := range bs {
		if b.Err != nil {
			bad = append(bad, fmt.Sprintf("broker %s: %v", b.Broker, b.Err))
		}
	}
	switch len(bad) {
	case 0:
		return HealthOK, ""
	case len(bs):
		return HealthDown, strings.Join(bad, "; ")
	default:
		return HealthDegraded, strings.Join(bad, "; ")
	}
}

func capabilities(c mq.Caps) []string {
	var list []string
	for _, x := range []struct {
		name string
		has  bool
	}{
		{"headers", c.Headers},
		{"idempotent", c.Idempotent},
		{"commit-metadata", c.CommitMetadata > 0},
		{"native-groups", c.NativeGroups},
		{"fenced-commits", c.FencedCommits},
		{"create-topics", c.CreateTopics},
		{"delete-topics", c.DeleteTopics},
		{"add-partitions", c.AddPartitions},
		{"delete-groups", c.DeleteGroups},
		{"topic-configs", c.TopicConfigs},
		{"delete-records", c.DeleteRecords},
		{"time-lookup", c.TimeLookup},
		{"synced-before-ack", c.SyncedBeforeAck},
	} {
		if x.has {
			list = append(list, x.name)
		}
	}
	return list
}

// ListClusters lists clusters by name; health is what the prober saw last.
func (s *Service) ListClusters(context.Context) []*ClusterInfo {
	clusters := s.current().Clusters
	list := make([]*ClusterInfo, 0, len(clusters))
	for _, name := range slices.Sorted(maps.Keys(clusters)) {
		info := s.probes.info(name)
		info.Cluster = clusters[name]
		list = append(list, &info)
	}
	return list
}

// DescribeCluster asks the cluster itself.
func (s *Service) DescribeCluster(ctx context.Context, name string) (*ClusterInfo, error) {
	c := s.current().Clusters[name]
	if c == nil {
		return nil, stored(store.ErrNotFound, fault.ClusterNotFound, "cluster", name)
	}
	info := &ClusterInfo{Cluster: c, Health: HealthUnknown}
	d, err := s.deps.Clusters.Driver(name)
	if err != nil {
		info.HealthText = err.Error()
		return info, nil //nolint:nilerr // that it cannot be asked is the answer
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	_ = look(ctx, d, info) // its error stands in the info
	s.probes.remember(name, info)
	return info, nil
}

// SetCluster changes what is set in spec (zero: unchanged) and tries the result before it is stored.
func (s *Service) SetCluster(ctx context.Context, who auth.Who, spec *ClusterSpec, base uint64, dry bool) (*ClusterInfo, error) {
	old := s.current().Clusters[spec.Name]
	if old == nil {
		return nil, stored(store.ErrNotFound, fault.ClusterNotFound, "cluster", spec.Name)
	}
	if base != 0 && old.Version != base {
		return nil, stored(store.ErrConflict, fault.ClusterNotFound, "cluster", spec.Name)
	}
	if old.Kind == mq.Embedded {
		return nil, fault.New(fault.InvalidArgument, "cluster %q is the embedded store of node %q; it has nothing to set", spec.Name, old.Node)
	}
	merged, err := s.unseal(old)
	if err != nil {
		return nil, err
	}
	merge(merged, spec)
	if err := checkClusterSpec(merged); err != nil {
		return nil, err
	}
	c, err := s.seal(merged)
	if err != nil {
		return nil, err
	}
	info, err := s.reach(ctx, c)
	if err != nil {
		return nil, err
	}
	st, err := s.write(ctx, dry, func(ctx context.Context, tx *store.Tx) error { return tx.UpdateCluster(ctx, c, old.Version) })
	if err != nil {
		return nil, stored(err, fault.ClusterNotFound, "cluster", c.Name)
	}
	info.Cluster = st.Clusters[c.Name]
	if !dry {
		s.audit(ctx, who, "cluster set", c.Name, old, info.Cluster)
		s.probes.remember(c.Name, info)
	}
	return info, nil
}

// merge puts what is set in by over into. Kind never changes.
func merge(into, by *ClusterSpec) {
	text := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	if len(by.Bootstrap) > 0 {
		into.Bootstrap = by.Bootstrap
	}
	text(&into.Datacenter, by.Datacenter)
	text(&into.Side, by.Side)
	text(&into.SASLMechanism, by.SASLMechanism)
	text(&into.SASLUser, by.SASLUser)
	if !by.SASLPassword.IsZero() {
		into.SASLPassword = by.SASLPassword
	}
	into.TLS = into.TLS || by.TLS
	if len(by.TLSCA) > 0 {
		into.TLSCA = by.TLSCA
	}
	if len(by.TLSCert) > 0 {
		into.TLSCert, into.TLSKey = by.TLSCert, by.TLSKey
	}
	text(&into.TLSServerName, by.TLSServerName)
}

// RemoveCluster forgets a cluster that no topic lives on.
func (s *Service) RemoveCluster(ctx context.Context, who auth.Who, name string, dry bool) error {
	old := s.current().Clusters[name]
	if old != nil && old.Kind == mq.Embedded {
		return fault.New(fault.InvalidArgument, "cluster %q belongs to node %q and cannot be removed", name, old.Node)
	}
	_, err := s.write(ctx, dry, func(ctx context.Context, tx *store.Tx) error { return tx.DeleteCluster(ctx, name) })
	if errors.Is(err, store.ErrInUse) {
		return fault.New(fault.Conflict, "cluster %q has topics (%s); delete or move them first", name, firstFew(s.topicsOn(name)))
	}
	if err != nil {
		return stored(err, fault.ClusterNotFound, "cluster", name)
	}
	if !dry {
		s.audit(ctx, who, "cluster remove", name, old, nil)
		s.probes.forget(name)
	}
	return nil
}

func (s *Service) topicsOn(cluster string) []string {
	var names []string
	for name, t := range s.current().Topics {
		if slices.ContainsFunc(t.Homes, func(h snapshot.Home) bool { return h.Cluster == cluster }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// firstFew lists names for an error's text.
func firstFew(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// Check is one thing that was tried on a cluster.
type Check struct {
	Name string
	OK   bool
	Text string
}

// CheckCluster tries a registered cluster (spec nil), or one that is not, step
// by step. It writes nothing.
func (s *Service) CheckCluster(ctx context.Context, name string, spec *ClusterSpec) ([]Check, error) {
	var c *snapshot.Cluster
	if spec == nil {
		if c = s.current().Clusters[name]; c == nil {
			return nil, stored(store.ErrNotFound, fault.ClusterNotFound, "cluster", name)
		}
	} else {
		if err := checkClusterSpec(spec); err != nil {
			return []Check{{Name: "settings", Text: err.Error()}}, nil //nolint:nilerr // the check's result
		}
		sealed, err := s.seal(spec)
		if err != nil {
			return nil, err
		}
		c = sealed
	}
	ctx, cancel := context.WithTimeout(ctx, 2*reachTimeout)
	defer cancel()
	open := func() (mq.Driver, error) { return s.deps.Clusters.Trial(c) }
	if c.Kind == mq.Embedded {
		open = func() (mq.Driver, error) { return s.deps.Clusters.Driver(c.Name) }
	}
	d, err := open()
	if err != nil {
		return []Check{{Name: "open", Text: err.Error()}}, nil //nolint:nilerr // the check's result
	}
	if c.Kind != mq.Embedded {
		defer d.Close(context.WithoutCancel(ctx))
	}
	return checks(ctx, d), nil
}

func checks(ctx context.Context, d mq.Driver) []Check {
	list := []Check{{Name: "open", OK: true}}
	add := func(name string, err error, text string) bool {
		if err != nil {
			text = err.Error()
		}
		list = append(list, Check{Name: name, OK: err == nil, Text: text})
		return err == nil
	}
	caps, err := d.Caps(ctx)
	if !add("reach", err, "version "+caps.Version+"; "+strings.Join(capabilities(caps), ", ")) {
		return list
	}
	for _, b := range d.Probe(ctx) {
		add("broker "+b.Broker, b.Err, fmt.Sprintf("%s, %v", b.Address, b.Latency.Round(time.Microsecond)))
	}
	topics, err := d.Admin().Topics(ctx)
	add("list topics", err, fmt.Sprintf("%d topics", len(topics)))
	groups, err := d.Admin().Groups(ctx)
	if !errors.Is(err, mq.Unsupported) {
		add("list groups", err, fmt.Sprintf("%d groups", len(groups)))
	}
	return list
}
