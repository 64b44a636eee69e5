package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-mq/sluice/gen/adminv1"
)

func (a *app) clusterCommand() *cobra.Command {
	return a.noun("cluster", "Clusters that messages live on",
		a.clusterAdd(), a.clusterList(), a.clusterDescribe(), a.clusterSet(), a.clusterRemove(), a.clusterCheck())
}

// clusterFlags are the flags that describe a cluster.
type clusterFlags struct {
	kind, datacenter, side          string
	bootstrap                       []string
	sasl, user, passFile            string
	tls                             bool
	ca, cert, key, tlsName, passEnv string
}

func (f *clusterFlags) bind(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.kind, "kind", "", "kafka or rocketmq")
	fl.StringSliceVar(&f.bootstrap, "bootstrap", nil, "addresses of brokers (name servers for RocketMQ), with commas")
	fl.StringVar(&f.datacenter, "datacenter", "", "where it stands")
	fl.StringVar(&f.side, "side", "", "department that owns it")
	fl.StringVar(&f.sasl, "sasl", "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
	fl.StringVar(&f.user, "sasl-user", "", "user for SASL")
	fl.StringVar(&f.passFile, "sasl-password-file", "", "file with the password for SASL (- is stdin)")
	fl.StringVar(&f.passEnv, "sasl-password-env", "", "environment variable with the password for SASL")
	fl.BoolVar(&f.tls, "tls", false, "speak TLS to the brokers")
	fl.StringVar(&f.ca, "tls-ca", "", "PEM file with the CA of the brokers; the system's roots without")
	fl.StringVar(&f.cert, "tls-cert", "", "PEM file with a client certificate")
	fl.StringVar(&f.key, "tls-key", "", "PEM file with its key")
	fl.StringVar(&f.tlsName, "tls-server-name", "", "name to expect in the brokers' certificates")
}

// spec reads the files that the flags name. Passwords never come by flag: other users see those.
func (a *app) spec(name string, f *clusterFlags) (*adminv1.ClusterSpec, error) {
	s := &adminv1.ClusterSpec{
		Name: name, Kind: f.kind, Bootstrap: f.bootstrap, Datacenter: f.datacenter, Side: f.side,
		SaslMechanism: f.sasl, SaslUser: f.user, Tls: f.tls || f.ca != "" || f.cert != "", TlsServerName: f.tlsName,
	}
	var err error
	if s.SaslPassword, err = a.password(f); err != nil {
		return nil, err
	}
	for _, file := range []struct {
		path string
		into *[]byte
	}{{f.ca, &s.TlsCa}, {f.cert, &s.TlsCert}, {f.key, &s.TlsKey}} {
		if file.path == "" {
			continue
		}
		if *file.into, err = os.ReadFile(file.path); err != nil {
			return nil, fmt.Errorf("cluster %s: %w", name, err)
		}
	}
	return s, nil
}

// maxSecretBytes bounds what is read as a password.
const maxSecretBytes = 64 << 10

func (a *app) password(f *clusterFlags) (string, error) {
	switch {
	case f.passEnv != "":
		p, ok := a.env[f.passEnv]
		if !ok {
			return "", usage("sasl-password-env %s: is not set", f.passEnv)
		}
		return p, nil
	case f.passFile == "-":
		b, err := io.ReadAll(io.LimitReader(a.In, maxSecretBytes))
		return strings.TrimRight(string(b), "\r\n"), err
	case f.passFile != "":
		b, err := os.ReadFile(f.passFile)
		if err != nil {
			return "", fmt.Errorf("password: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	return "", nil
}

func (a *app) clusterAdd() *cobra.Command {
	var f clusterFlags
	var dryRun, unreachable bool
	c := &cobra.Command{
		Use: "add NAME --kind kafka|rocketmq --bootstrap ADDRS", Short: "Register a cluster after reaching it", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if f.kind == "" || len(f.bootstrap) == 0 {
				return usage("cluster %s: needs --kind and --bootstrap", names[0])
			}
			spec, err := a.spec(names[0], &f)
			if err != nil {
				return err
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.AddCluster(c.Context(), &adminv1.AddClusterRequest{Cluster: spec, DryRun: dryRun, UnreachableOk: unreachable})
				if err != nil {
					return fmt.Errorf("cluster %s: %w", names[0], err)
				}
				a.done(dryRun, "registered cluster %s; `sluice topic adopt --all --cluster %s` makes its topics known", names[0], names[0])
				return a.printCluster(r.GetCluster())
			})
		},
	}
	f.bind(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "try it, register nothing")
	c.Flags().BoolVar(&unreachable, "unreachable-ok", false, "register it although it does not answer")
	return c
}

func (a *app) clusterList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List clusters", Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.ListClusters(c.Context(), &adminv1.ListClustersRequest{})
				if err != nil {
					return err
				}
				l := listing{head: []string{"NAME", "KIND", "VERSION", "HEALTH", "DATACENTER", "BOOTSTRAP"}}
				for _, i := range r.GetClusters() {
					k := i.GetCluster()
					l.add(view(i), k.GetName(), k.GetKind(), i.GetBrokerVersion(), i.GetHealth(), k.GetDatacenter(), strings.Join(k.GetBootstrap(), ","))
				}
				return a.list(l)
			})
		},
	}
}

func (a *app) clusterDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show a cluster, its brokers and what it can do", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.DescribeCluster(c.Context(), &adminv1.DescribeClusterRequest{Name: names[0]})
				if err != nil {
					return fmt.Errorf("cluster %s: %w", names[0], err)
				}
				return a.printCluster(r.GetCluster())
			})
		},
	}
}

func (a *app) printCluster(i *adminv1.ClusterInfo) error {
	return a.print(view(i), func(w io.Writer) error {
		k := i.GetCluster()
		err := describeTable(w, object{
			{"name", k.GetName()},
			{"kind", k.GetKind()},
			{"version", i.GetBrokerVersion()},
			{"health", i.GetHealth()},
			{"reason", i.GetHealthText()},
			{"bootstrap", k.GetBootstrap()},
			{"datacenter", k.GetDatacenter()},
			{"side", k.GetSide()},
			{"sasl", k.GetSasl().GetMechanism()},
			{"tls", k.GetTls().GetEnabled()},
			{"node", k.GetNode()},
			{"can", i.GetCapabilities()},
		})
		if err != nil || len(i.GetBrokers()) == 0 {
			return err
		}
		rows := make([][]string, 0, len(i.GetBrokers()))
		for _, b := range i.GetBrokers() {
			rows = append(rows, []string{b.GetId(), b.GetAddress(), b.GetHealth(), fmt.Sprintf("%.1f ms", float64(b.GetLatencyUs())/1000), mark(b.GetController()), b.GetRack()})
		}
		return table(w, []string{"BROKER", "ADDRESS", "HEALTH", "LATENCY", "CONTROLLER", "RACK"}, rows)
	})
}

func (a *app) clusterSet() *cobra.Command {
	var f clusterFlags
	var dryRun bool
	var version uint64
	c := &cobra.Command{
		Use: "set NAME", Short: "Change addresses, credentials or labels; what is not given stays", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if c.Flags().NFlag() == 0 {
				return usage("cluster %s: nothing to change; give at least one flag", names[0])
			}
			spec, err := a.spec(names[0], &f)
			if err != nil {
				return err
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.SetCluster(c.Context(), &adminv1.SetClusterRequest{Cluster: spec, Version: version, DryRun: dryRun})
				if err != nil {
					return fmt.Errorf("cluster %s: %w", names[0], err)
				}
				a.done(dryRun, "changed cluster %s", names[0])
				return a.printCluster(r.GetCluster())
			})
		},
	}
	f.bind(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "try it, change nothing")
	c.Flags().Uint64Var(&version, "if-version", 0, "only if this version is stored still")
	return c
}

func (a *app) clusterRemove() *cobra.Command {
	var d danger
	c := &cobra.Command{
		Use: "remove NAME", Short: "Forget a cluster that no topic uses; its data stays", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			if err := a.confirm(d, "cluster", names[0], "will be forgotten, with its credentials"); err != nil {
				return err
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				if _, err := admin.RemoveCluster(c.Context(), &adminv1.RemoveClusterRequest{Name: names[0], DryRun: d.dryRun}); err != nil {
					return fmt.Errorf("cluster %s: %w", names[0], err)
				}
				a.done(d.dryRun, "removed cluster %s", names[0])
				return nil
			})
		},
	}
	d.flags(c)
	return c
}

func (a *app) clusterCheck() *cobra.Command {
	var f clusterFlags
	c := &cobra.Command{
		Use: "check NAME [--kind ... --bootstrap ...]", Short: "Try a cluster's features one by one; with flags one that is not registered", Args: args(1, 1, "NAME"),
		RunE: func(c *cobra.Command, names []string) error {
			req := &adminv1.CheckClusterRequest{Name: names[0]}
			if len(f.bootstrap) > 0 {
				spec, err := a.spec(names[0], &f)
				if err != nil {
					return err
				}
				req = &adminv1.CheckClusterRequest{Cluster: spec}
			}
			return a.withAdmin(func(admin adminv1.AdminServiceClient) error {
				r, err := admin.CheckCluster(c.Context(), req)
				if err != nil {
					return fmt.Errorf("cluster %s: %w", names[0], err)
				}
				return a.printChecks(names[0], r.GetChecks())
			})
		},
	}
	f.bind(c)
	return c
}

func (a *app) printChecks(name string, checks []*adminv1.Check) error {
	l := listing{head: []string{"CHECK", "RESULT", "TEXT"}}
	failed := 0
	for _, k := range checks {
		result := "ok"
		if !k.GetOk() {
			result = "FAILED"
			failed++
		}
		l.add(view(k), k.GetName(), result, k.GetText())
	}
	if err := a.list(l); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("cluster %s: %d of %d checks failed; the table says why", name, failed, len(checks))
	}
	return nil
}
