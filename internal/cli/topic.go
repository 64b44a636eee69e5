package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/gen/adminv1"
)

// pageSize is how many topics or groups one call of a list asks for.
const pageSize = 500

func (a *app) topicCommand() *cobra.Command {
	return a.noun("topic", "Logical topics",
		a.topicAdopt(), a.topicCreate(), a.topicList(), a.topicDescribe(), a.topicSet(), a.topicDelete(), a.topicMessages(), a.topicFind())
}

func (a *app) topicAdopt() *cobra.Command {
	req := &adminv1.AdoptTopicsRequest{}
	c := &cobra.Command{
		Use: "adopt [NAME...|--all] --cluster C [--as NAME]", Short: "Make topics known that exist on a cluster", Args: args(0, -1, "names of topics"),
		RunE: func(c *cobra.Command, names []string) error {
			switch {
			case req.GetCluster() == "":
				return usage("topic adopt: needs --cluster")
			case req.GetAll() == (len(names) > 0):
				return usage("topic adopt: takes names of topics, or --all")
			case req.GetAs() != "" && len(names) != 1:
				return usage("topic adopt: --as renames one topic; name one")
			}
			req.Topics = names
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.AdoptTopics(c.Context(), req)
				if err != nil {
					return fmt.Errorf("adopt from cluster %s: %w", req.GetCluster(), err)
				}
				a.done(req.GetDryRun(), "adopted %d topics of cluster %s", len(r.GetTopics()), req.GetCluster())
				return a.listTopics(r.GetTopics())
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.Cluster, "cluster", "", "cluster that has them")
	f.StringVar(&req.As, "as", "", "logical name, where it differs")
	f.BoolVar(&req.All, "all", false, "every topic that is not internal")
	f.BoolVar(&req.DryRun, "dry-run", false, "say what would happen, change nothing")
	return c
}

func (a *app) topicCreate() *cobra.Command {
	req := &adminv1.CreateTopicRequest{}
	var config []string
	var retention time.Duration
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a topic", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			var err error
			if req.Config, err = pairs("config", config); err != nil {
				return err
			}
			req.Name, req.RetentionMs = names[0], retention.Milliseconds()
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.CreateTopic(c.Context(), req)
				if err != nil {
					return fmt.Errorf("topic %s: %w", names[0], err)
				}
				a.done(req.GetDryRun(), "created topic %s", names[0])
				return a.printTopic(r.GetTopic())
			})
		},
	}
	f := c.Flags()
	f.StringVar(&req.Cluster, "cluster", "", "cluster that holds it; needed where there are several")
	f.StringVar(&req.Order, "order", "", "none, available or strict")
	f.Uint32Var(&req.Partitions, "partitions", 0, "partitions; the cluster's default without")
	f.Uint32Var(&req.Replicas, "replicas", 0, "replicas; the cluster's default without")
	f.DurationVar(&retention, "retention", 0, "how long messages are kept; the cluster's default without")
	f.StringVar(&req.Owner, "owner", "", "app that owns it")
	f.StringArrayVar(&config, "config", nil, "setting of the physical topic, KEY=VALUE; may repeat")
	f.BoolVar(&req.DryRun, "dry-run", false, "say what would happen, change nothing")
	return c
}

// pairs reads KEY=VALUE settings.
func pairs(flag string, kvs []string) (map[string]string, error) {
	if len(kvs) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usage("--%s %q: is not KEY=VALUE", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}

func (a *app) topicList() *cobra.Command {
	req := &adminv1.ListTopicsRequest{PageSize: pageSize}
	c := &cobra.Command{
		Use: "list", Short: "List topics", Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				var topics []*adminv1.TopicInfo
				for {
					r, err := admin.ListTopics(c.Context(), req)
					if err != nil {
						return err
					}
					topics = append(topics, r.GetTopics()...)
					if req.PageToken = r.GetNextPageToken(); req.GetPageToken() == "" {
						return a.listTopics(topics)
					}
				}
			})
		},
	}
	c.Flags().StringVar(&req.Cluster, "cluster", "", "only those of this cluster")
	c.Flags().StringVar(&req.Prefix, "prefix", "", "only names that begin so")
	return c
}

func (a *app) listTopics(topics []*adminv1.TopicInfo) error {
	l := listing{head: []string{"NAME", "CLUSTER", "PHYSICAL", "PARTITIONS", "REPLICAS", "ORDER", "OWNER"}}
	for _, t := range topics {
		cluster, physical := home(t)
		l.add(view(t), t.GetTopic().GetName(), cluster, physical, number(t.GetPartitions()), number(t.GetReplicas()), t.GetTopic().GetOrder(), t.GetTopic().GetOwner())
	}
	return a.list(l)
}

// home is where a topic lives, with commas where it lives in several places.
func home(t *adminv1.TopicInfo) (cluster, physical string) {
	var clusters, topics []string
	for _, h := range t.GetTopic().GetHomes() {
		clusters, topics = append(clusters, h.GetCluster()), append(topics, h.GetTopic())
	}
	return strings.Join(clusters, ","), strings.Join(topics, ",")
}

// number leaves out what is unknown.
func number(n uint32) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(n), 10)
}

func (a *app) topicDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show a topic and its partitions", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.DescribeTopic(c.Context(), &adminv1.DescribeTopicRequest{Name: names[0]})
				if err != nil {
					return fmt.Errorf("topic %s: %w", names[0], err)
				}
				return a.printTopic(r.GetTopic())
			})
		},
	}
}

func (a *app) printTopic(t *adminv1.TopicInfo) error {
	return a.print(view(t), func(w io.Writer) error {
		cluster, physical := home(t)
		o := object{
			{"name", t.GetTopic().GetName()},
			{"cluster", cluster},
			{"physical", physical},
			{"partitions", number(t.GetPartitions())},
			{"replicas", number(t.GetReplicas())},
			{"order", t.GetTopic().GetOrder()},
			{"owner", t.GetTopic().GetOwner()},
			{"durability", t.GetDurability()},
			{"version", t.GetTopic().GetVersion()},
		}
		var config []string
		for k, v := range t.GetConfig() {
			config = append(config, k+"="+v)
		}
		slices.Sort(config)
		if err := describeTable(w, append(o, field{"config", config})); err != nil || len(t.GetPartitionInfos()) == 0 {
			return err
		}
		var rows [][]string
		for _, p := range t.GetPartitionInfos() {
			rows = append(rows, []string{
				p.GetPartition(), p.GetLeader(), strings.Join(p.GetReplicas(), ","), strings.Join(p.GetInSync(), ","),
				strconv.FormatInt(p.GetStartOffset(), 10), strconv.FormatInt(p.GetEndOffset(), 10),
			})
		}
		return table(w, []string{"PARTITION", "LEADER", "REPLICAS", "IN SYNC", "START", "END"}, rows)
	})
}

func (a *app) topicSet() *cobra.Command {
	req := &adminv1.SetTopicRequest{}
	var config []string
	var rateMessages, rateBytes int64
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a topic's settings; what is not given stays", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if c.Flags().NFlag() == 0 {
				return usage("topic %s: nothing to change; give at least one flag", names[0])
			}
			var err error
			if req.Config, err = pairs("config", config); err != nil {
				return err
			}
			if c.Flags().Changed("rate-messages") {
				req.RateMessages = &rateMessages
			}
			if c.Flags().Changed("rate-bytes") {
				req.RateBytes = &rateBytes
			}
			req.Name = names[0]
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.SetTopic(c.Context(), req)
				if err != nil {
					return fmt.Errorf("topic %s: %w", names[0], err)
				}
				a.done(req.GetDryRun(), "changed topic %s", names[0])
				return a.printTopic(r.GetTopic())
			})
		},
	}
	f := c.Flags()
	f.StringArrayVar(&config, "config", nil, "setting of the physical topic, KEY=VALUE; may repeat")
	f.Uint32Var(&req.Partitions, "partitions", 0, "more partitions; moves keys, so only for topics without order")
	f.StringVar(&req.Owner, "owner", "", "app that owns it")
	f.StringVar(&req.Order, "order", "", "none, available or strict")
	f.Int64Var(&rateMessages, "rate-messages", 0, "messages a second through one node; 0 is no limit")
	f.Int64Var(&rateBytes, "rate-bytes", 0, "bytes a second through one node; 0 is no limit")
	f.Uint64Var(&req.Version, "if-version", 0, "only if this version is stored still")
	f.BoolVar(&req.DryRun, "dry-run", false, "say what would happen, change nothing")
	return c
}

func (a *app) topicDelete() *cobra.Command {
	var d danger
	var physical bool
	c := &cobra.Command{
		Use: "delete NAME", Short: "Forget a topic; with --physical delete its messages too", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			what := "will be forgotten; its messages stay on the cluster"
			if physical {
				what = "will be deleted with all its messages"
			}
			if err := a.confirm(d, "topic", names[0], what); err != nil {
				return err
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				if _, err := admin.DeleteTopic(c.Context(), &adminv1.DeleteTopicRequest{Name: names[0], Physical: physical, DryRun: d.dryRun}); err != nil {
					return fmt.Errorf("topic %s: %w", names[0], err)
				}
				a.done(d.dryRun, "deleted topic %s", names[0])
				return nil
			})
		},
	}
	c.Flags().BoolVar(&physical, "physical", false, "delete the topic on its cluster too")
	d.flags(c)
	return c
}

func (a *app) topicMessages() *cobra.Command {
	req := &adminv1.ReadMessagesRequest{}
	c := &cobra.Command{
		Use: "messages NAME", Short: "Read messages without a group; nothing is consumed", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			req.Topic = names[0]
			_, err := a.readMessages(c, req)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&req.Partition, "partition", "", "only this partition")
	f.StringVar(&req.From, "from", "earliest", "earliest, latest, an RFC 3339 time or an offset (with --partition)")
	f.Uint32Var(&req.Count, "count", 10, "how many")
	f.Uint32Var(&req.Budget, "budget", 0, "how many messages may be looked at; 100,000 without")
	return c
}

func (a *app) topicFind() *cobra.Command {
	req := &adminv1.ReadMessagesRequest{}
	var key string
	c := &cobra.Command{
		Use: "find NAME --id ID | --key KEY", Short: "Find messages by id or key", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if c.Flags().Changed("key") {
				req.Key = []byte(key)
			}
			if (req.GetId() != "") == (req.Key != nil) {
				return usage("topic find %s: needs --id or --key, one of them", names[0])
			}
			req.Topic = names[0]
			n, err := a.readMessages(c, req)
			if err == nil && n == 0 {
				return fmt.Errorf("topic %s: holds no such message; give --from and --budget to search elsewhere", names[0])
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&req.Id, "id", "", "id of the message")
	f.StringVar(&key, "key", "", "key of the messages")
	f.StringVar(&req.From, "from", "earliest", "where the search begins: earliest, latest, an RFC 3339 time")
	f.Uint32Var(&req.Count, "count", 100, "how many at most")
	f.Uint32Var(&req.Budget, "budget", 0, "how many messages may be looked at; 100,000 without")
	return c
}

func (a *app) readMessages(c *cobra.Command, req *adminv1.ReadMessagesRequest) (n int, err error) {
	out := a.newMessagePrinter(nil)
	defer func() { err = errors.Join(err, out.flush()) }()
	err = a.withAdmin(func(admin adminv1.AdminServiceClient) error {
		stream, err := admin.ReadMessages(c.Context(), req)
		if err != nil {
			return fmt.Errorf("topic %s: %w", req.GetTopic(), err)
		}
		for {
			r, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("topic %s: %w", req.GetTopic(), err)
			}
			if m := r.GetMessage(); m != nil {
				n++
				if err := out.print(ofProto(m)); err != nil {
					return err
				}
			}
			if r.GetIncomplete() {
				a.note("the search ended at its budget; more may exist (--budget, --from)")
			}
		}
	})
	return n, err
}
