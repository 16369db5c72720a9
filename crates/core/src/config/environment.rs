//! Variables of the environment that are read, in words.

/// What is read, by which part, and what it says. Several names are in the order in which they are looked for.
pub const ENVIRONMENT: &[(&str, &[&str], &str)] = &[
    (
        "everywhere",
        &["HEADWATER_HOME", "XDG_CACHE_HOME", "HOME"],
        "folder of kept manifests: the first as it is, `headwater` in the second, `.cache/headwater` in the third; nothing is kept where none is set",
    ),
    (
        "sources over HTTP",
        &["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"],
        "proxies, and hosts that need none; in lower case, too",
    ),
    (
        "ranks",
        &["RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"],
        "of torchrun, Accelerate, Lightning, Ray Train: which process of the run this is, how many there are, and how many on this machine",
    ),
    (
        "ranks",
        &["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"],
        "the same of Open MPI's `mpirun`",
    ),
    ("ranks", &["PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"], "the same of MPICH's"),
    (
        "ranks",
        &[
            "SLURM_PROCID",
            "SLURM_STEP_NUM_TASKS",
            "SLURM_STEP_TASKS_PER_NODE",
            "SLURM_NTASKS",
            "SLURM_NTASKS_PER_NODE",
            "SLURM_TASKS_PER_NODE",
            "SLURM_NODEID",
            "SLURM_STEP_ID",
            "SLURM_STEPID",
        ],
        "the same of a step that `srun` started",
    ),
    (
        "`s3://`",
        &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
        "credentials; the first link of the standard chain, whose others are in [its guide](sources/s3.md)",
    ),
    ("`s3://`", &["AWS_PROFILE", "AWS_CONFIG_FILE"], "profile of `~/.aws`, and another file than `~/.aws/config`"),
    ("`s3://`", &["AWS_REGION", "AWS_DEFAULT_REGION"], "region"),
    ("`s3://`", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"], "URL of an S3-compatible server"),
    (
        "`gs://`",
        &["GOOGLE_APPLICATION_CREDENTIALS"],
        "file with credentials; the first link of the chain in [its guide](sources/gcs.md)",
    ),
    (
        "`az://`",
        &["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"],
        "the account; credentials are in [its guide](sources/azure.md)",
    ),
    ("`az://`", &["AZURE_STORAGE_ACCOUNT_KEY"], "the account's key"),
    ("`az://`", &["AZURE_STORAGE_ENDPOINT"], "URL of the account's Blob service"),
    (
        "`hf://`",
        &["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME"],
        "token, file of the token, and folder that has it as `token`",
    ),
    ("`hf://`", &["HF_ENDPOINT"], "URL of another Hub"),
];
