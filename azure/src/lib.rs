//! Azure clients that the operator and the gateway share: credentials and Key Vault.
